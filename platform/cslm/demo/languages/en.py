"""English wording of the demo corpus, in British spelling as its voice speaks it."""

from cslm.demo.facts import NUMBERS as DIGITS
from cslm.demo.grammar import Exchange, Language

NUMBERS = dict(
    zip(
        DIGITS,
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen twenty".split(),
        strict=True,
    )
)
ACTIONS = {"sleep": "sleeps", "run": "runs", "play": "plays", "wait": "waits", "walk": "walks", "eat": "eats"}
HANDLINGS = {"buy": "buys", "sell": "sells", "want": "wants", "carry": "carries", "paint": "paints"}
MEALS = {"eat": "eats", "prepare": "prepares"}
HANDOVERS = {"give": "gives", "show": "shows"}
PLURALS = {"sheep": "sheep", "box": "boxes"}
# Where someone is, and where someone goes.
PLACES = {
    "garden": ("in the garden", "to the garden"),
    "park": ("in the park", "to the park"),
    "forest": ("in the forest", "to the forest"),
    "kitchen": ("in the kitchen", "to the kitchen"),
    "school": ("at school", "to school"),
    "market": ("at the market", "to the market"),
    "station": ("at the station", "to the station"),
    "library": ("in the library", "to the library"),
}
TIMES = {"morning": "in the morning", "afternoon": "in the afternoon", "night": "at night"}
WEATHER = {"hot": "it is hot", "cold": "it is cold", "rainy": "it rains", "snowy": "it snows"}
WEATHER |= {"windy": "it is windy", "sunny": "it is sunny"}
THINGS = {"sky": "the sky", "sea": "the sea", "frog": "a frog", "tomato": "a tomato", "strawberry": "a strawberry"}
THINGS |= {"lemon": "a lemon", "banana": "a banana", "crow": "a crow", "elephant": "an elephant"}


def _plural(noun: str) -> str:
    return PLURALS.get(noun, f"{noun}s")


def _when(time: str) -> str:
    return TIMES.get(time, f"on {time}" if time.endswith("day") and time[0].isupper() else time)


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _animal_does(colour: str, animal: str, action: str, place: str, time: str) -> str:
    return f"the {colour} {animal} {ACTIONS[action]} {PLACES[place][0]} {_when(time)}."


def _person_handles(trait: str, person: str, handling: str, colour: str, thing: str, time: str) -> str:
    return f"the {trait} {person} {HANDLINGS[handling]} a {colour} {thing} {_when(time)}."


def _person_eats(person: str, meal: str, food: str, place: str, time: str) -> str:
    return f"the {person} {MEALS[meal]} {food} {PLACES[place][0]} {_when(time)}."


def _person_goes(person: str, place: str, day: str, hour: str) -> str:
    return f"the {person} goes {PLACES[place][1]} on {day} at {NUMBERS[hour]}."


def _person_gives(person: str, handover: str, animal: str, colour: str, thing: str) -> str:
    return f"the {person} {HANDOVERS[handover]} the {animal} a {colour} {thing}."


def _person_has(trait: str, person: str, number: str, colour: str, thing: str) -> str:
    return f"the {trait} {person} has {NUMBERS[number]} {colour} {_plural(thing)}."


def _there_are(number: str, colour: str, animal: str, place: str) -> str:
    return f"there are {NUMBERS[number]} {colour} {_plural(animal)} {PLACES[place][0]}."


def _thing_is(size: str, colour: str, thing: str, relation: str, furniture: str) -> str:
    return f"the {size} {colour} {thing} is {relation} the {furniture}."


def _weather_is(weather: str, place: str, time: str) -> str:
    return f"{WEATHER[weather]} {PLACES[place][0]} {_when(time)}."


def _animal_at(colour: str, animal: str, place: str) -> str:
    return f"the {colour} {animal} is {PLACES[place][0]}."


def _things(number: str, colour: str, thing: str) -> str:
    return f"{NUMBERS[number]} {colour} {_plural(thing)}."


def _person_acts(person: str, action: str, time: str) -> str:
    return f"the {person} {ACTIONS[action]} {_when(time)}."


def _person_owns(person: str, number: str, thing: str) -> str:
    return f"the {person} has {NUMBERS[number]} {_plural(thing)}."


def _addition(a: str, b: str, total: str) -> Exchange:
    a, b, total = NUMBERS[a], NUMBERS[b], NUMBERS[total]
    return Exchange(
        (
            f"what is {a} plus {b}?",
            f"how much is {a} plus {b}?",
            f"what do you get when you add {a} and {b}?",
            f"add {a} and {b}, please.",
        ),
        (f"{total}.", f"it is {total}.", f"{a} plus {b} is {total}."),
    )


def _subtraction(a: str, b: str, rest: str) -> Exchange:
    a, b, rest = NUMBERS[a], NUMBERS[b], NUMBERS[rest]
    return Exchange(
        (
            f"what is {a} minus {b}?",
            f"how much is {a} minus {b}?",
            f"what is left when you take {b} from {a}?",
            f"subtract {b} from {a}, please.",
        ),
        (f"{rest}.", f"it is {rest}.", f"{a} minus {b} is {rest}."),
    )


def _colour(thing: str, colour: str) -> Exchange:
    phrase = THINGS.get(thing, thing)
    return Exchange(
        (
            f"what colour is {phrase}?",
            f"what is the colour of {phrase}?",
            f"tell me what colour {phrase} is.",
            f"do you know what colour {phrase} is?",
        ),
        (f"{colour}.", f"it is {colour}.", f"{phrase} is {colour}."),
    )


def _day_after(day: str, answer: str) -> Exchange:
    return _step("day", "after", day, answer, (f"which day follows {day}?", f"if today is {day}, what is tomorrow?"))


def _day_before(day: str, answer: str) -> Exchange:
    own = (f"which day is right before {day}?", f"if today is {day}, what was yesterday?")
    return _step("day", "before", day, answer, own)


def _month_after(month: str, answer: str) -> Exchange:
    own = (f"which month follows {month}?", f"if it is {month} now, what is the next month?")
    return _step("month", "after", month, answer, own)


def _month_before(month: str, answer: str) -> Exchange:
    own = (f"which month is right before {month}?", f"if it is {month} now, what was the last month?")
    return _step("month", "before", month, answer, own)


def _number_after(number: str, answer: str) -> Exchange:
    word = NUMBERS[number]
    own = (f"which number follows {word}?", f"what do you say after {word} when you count?")
    return _step("number", "after", word, NUMBERS[answer], own)


def _number_before(number: str, answer: str) -> Exchange:
    word = NUMBERS[number]
    own = (f"which number is right before {word}?", f"what do you say before {word} when you count?")
    return _step("number", "before", word, NUMBERS[answer], own)


def _step(unit: str, side: str, known: str, answer: str, own: tuple[str, str]) -> Exchange:
    return Exchange(
        (f"what {unit} comes {side} {known}?", own[0], f"what is the {unit} {side} {known}?", own[1]),
        (f"{answer}.", f"it is {answer}.", f"{answer} comes {side} {known}."),
    )


def _opposite(word: str, answer: str) -> Exchange:
    return Exchange(
        (
            f"what is the opposite of {word}?",
            f"which word is the opposite of {word}?",
            f"tell me the opposite of {word}.",
            f"do you know the opposite of {word}?",
        ),
        (f"{answer}.", f"it is {answer}.", f"the opposite of {word} is {answer}."),
    )


def _capital(country: str, city: str) -> Exchange:
    return Exchange(
        (
            f"what is the capital of {country}?",
            f"which city is the capital of {country}?",
            f"tell me the capital of {country}.",
            f"do you know the capital of {country}?",
        ),
        (f"{city}.", f"it is {city}.", f"the capital of {country} is {city}."),
    )


def _country(city: str, country: str) -> Exchange:
    return Exchange(
        (
            f"{city} is the capital of which country?",
            f"which country has the capital {city}?",
            f"tell me which country has the capital {city}.",
            f"do you know which country has the capital {city}?",
        ),
        (f"{country}.", f"it is {country}.", f"{city} is the capital of {country}."),
    )


def _compare(word: str, small: str, big: str, answer: str) -> Exchange:
    other = small if answer == big else big
    return Exchange(
        (
            f"which is {word}, {_a(small)} or {_a(big)}?",
            f"what is {word}, {_a(big)} or {_a(small)}?",
            f"is {_a(small)} or {_a(big)} {word}?",
            f"tell me which is {word}, {_a(big)} or {_a(small)}.",
        ),
        (f"{_a(answer)}.", f"the {answer} is {word}.", f"{_a(answer)} is {word} than {_a(other)}."),
    )


LANGUAGE = Language(
    code="en",
    name="English",
    voice="gmw/en",
    statements={
        "animal_does": _animal_does,
        "person_handles": _person_handles,
        "person_eats": _person_eats,
        "person_goes": _person_goes,
        "person_gives": _person_gives,
        "person_has": _person_has,
        "there_are": _there_are,
        "thing_is": _thing_is,
        "weather_is": _weather_is,
        "animal_at": _animal_at,
        "things": _things,
        "person_acts": _person_acts,
        "person_owns": _person_owns,
    },
    exchanges={
        "addition": _addition,
        "subtraction": _subtraction,
        "colour": _colour,
        "day_after": _day_after,
        "day_before": _day_before,
        "month_after": _month_after,
        "month_before": _month_before,
        "number_after": _number_after,
        "number_before": _number_before,
        "opposite": _opposite,
        "capital": _capital,
        "country": _country,
        "bigger": lambda small, big, answer: _compare("bigger", small, big, answer),
        "smaller": lambda small, big, answer: _compare("smaller", small, big, answer),
    },
)
