from cslm.apps import training_curves


def test_the_picture_has_a_panel_for_what_was_recorded_and_a_line_for_each_group():
    histories = {
        "loss/total": [(1, 3.0), (2, 2.0)],
        "loss/asr/en": [(2, 1.5)],
        "eval/loss/total": [],
        "optimizer/learning_rate": [(1, 1e-3), (2, 5e-4)],
        "optimizer/grad_norm": [(1, 0.5), (2, 0.25)],
    }
    figure = training_curves.picture(histories)
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "learning rate", "gradient norm"]
    lines = {line.get_label(): list(line.get_ydata()) for line in figure.axes[0].lines}
    assert lines == {"total": [3.0, 2.0], "asr/en": [1.5]}
