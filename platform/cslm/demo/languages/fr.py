"""French wording of the demo corpus: agreement, elision, contracted articles, a space before ? as printers do."""

from cslm.demo.facts import MONTHS
from cslm.demo.facts import NUMBERS as DIGITS
from cslm.demo.grammar import DAYS, Exchange, Language

NUMBERS = dict(
    zip(
        DIGITS,
        "zéro un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize dix-sept "
        "dix-huit dix-neuf vingt".split(),
        strict=True,
    )
)
# Nouns stand with `un` or `une`; the definite article follows from it and from the first letter.
PEOPLE = {"teacher": "un professeur", "doctor": "un médecin", "farmer": "une fermière", "singer": "une chanteuse"}
PEOPLE |= {"student": "un étudiant", "driver": "un conducteur", "cook": "une cuisinière"}
PEOPLE |= {"neighbour": "une voisine", "soldier": "un soldat", "painter": "un peintre"}
ANIMALS = {"cat": "un chat", "dog": "un chien", "horse": "un cheval", "bird": "un oiseau", "cow": "une vache"}
ANIMALS |= {"rabbit": "un lapin", "sheep": "un mouton", "duck": "un canard"}
OBJECTS = {"book": "un livre", "cup": "une tasse", "hat": "un chapeau", "shirt": "une chemise", "box": "une boîte"}
OBJECTS |= {"bag": "un sac", "chair": "une chaise", "ball": "une balle", "bicycle": "un vélo"}
OBJECTS |= {"umbrella": "un parapluie"}
FURNITURE = {"table": "une table", "bed": "un lit", "car": "une voiture", "sofa": "un canapé"}
THINGS = {"sky": "un ciel", "sea": "une mer", "grass": "une herbe", "frog": "une grenouille", "snow": "une neige"}
THINGS |= {"milk": "un lait", "salt": "un sel", "blood": "un sang", "tomato": "une tomate"}
THINGS |= {"strawberry": "une fraise", "lemon": "un citron", "banana": "une banane", "coal": "un charbon"}
THINGS |= {"crow": "un corbeau", "chocolate": "un chocolat", "elephant": "un éléphant"}
BEASTS = {"ant": "une fourmi", "mouse": "une souris", "rabbit": "un lapin", "sheep": "un mouton"}
BEASTS |= {"horse": "un cheval", "elephant": "un éléphant"}
# Where someone is, and where someone goes.
PLACES = {
    "garden": ("dans le jardin", "au jardin"),
    "park": ("dans le parc", "au parc"),
    "forest": ("dans la forêt", "dans la forêt"),
    "kitchen": ("dans la cuisine", "à la cuisine"),
    "school": ("à l'école", "à l'école"),
    "market": ("au marché", "au marché"),
    "station": ("à la gare", "à la gare"),
    "library": ("à la bibliothèque", "à la bibliothèque"),
}
FOODS = {"bread": "du pain", "rice": "du riz", "fish": "du poisson", "meat": "de la viande"}
FOODS |= {"cheese": "du fromage", "eggs": "des œufs"}
# Masculine and feminine; colours follow their noun.
COLOURS = {"red": ("rouge", "rouge"), "blue": ("bleu", "bleue"), "green": ("vert", "verte")}
COLOURS |= {"yellow": ("jaune", "jaune"), "black": ("noir", "noire"), "white": ("blanc", "blanche")}
COLOURS |= {"brown": ("marron", "marron"), "grey": ("gris", "grise")}
DAY_NAMES = dict(zip(DAYS, "lundi mardi mercredi jeudi vendredi samedi dimanche".split(), strict=True))
MONTH_NAMES = dict(
    zip(
        MONTHS,
        "janvier février mars avril mai juin juillet août septembre octobre novembre décembre".split(),
        strict=True,
    )
)
WHEN = {"morning": "le matin", "afternoon": "l'après-midi", "night": "la nuit"}
WHEN |= {"every day": "tous les jours", "today": "aujourd'hui"} | DAY_NAMES
WEATHER = {"hot": "il fait chaud", "cold": "il fait froid", "rainy": "il pleut", "snowy": "il neige"}
WEATHER |= {"windy": "il y a du vent", "sunny": "il y a du soleil"}
ACTIONS = {"sleep": "dort", "run": "court", "play": "joue", "wait": "attend", "walk": "marche", "eat": "mange"}
HANDLINGS = {"buy": "achète", "sell": "vend", "want": "veut", "carry": "porte", "paint": "peint"}
MEALS = {"eat": "mange", "prepare": "prépare"}
HANDOVERS = {"give": "donne", "show": "montre"}
WORDS = {"big": "grand", "small": "petit", "hot": "chaud", "cold": "froid", "fast": "rapide", "slow": "lent"}
WORDS |= {"good": "bon", "bad": "mauvais", "open": "ouvert", "closed": "fermé", "full": "plein", "empty": "vide"}
WORDS |= {"day": "jour", "night": "nuit", "happy": "heureux", "sad": "triste", "rich": "riche", "poor": "pauvre"}
WORDS |= {"clean": "propre", "dirty": "sale", "easy": "facile", "difficult": "difficile", "wet": "mouillé"}
WORDS |= {"dry": "sec", "strong": "fort", "weak": "faible"}
COUNTRIES = {"France": "la France", "Spain": "l'Espagne", "Italy": "l'Italie", "Germany": "l'Allemagne"}
COUNTRIES |= {"China": "la Chine", "Japan": "le Japon", "Russia": "la Russie", "Egypt": "l'Égypte"}
COUNTRIES |= {"England": "l'Angleterre", "Portugal": "le Portugal", "Cuba": "Cuba", "Peru": "le Pérou"}
CITIES = {"Paris": "Paris", "Madrid": "Madrid", "Rome": "Rome", "Berlin": "Berlin", "Beijing": "Pékin"}
CITIES |= {"Tokyo": "Tokyo", "Moscow": "Moscou", "Cairo": "Le Caire", "London": "Londres", "Lisbon": "Lisbonne"}
CITIES |= {"Havana": "La Havane", "Lima": "Lima"}


def _feminine(phrase: str) -> bool:
    return phrase.startswith("une ")


def _noun(phrase: str) -> str:
    return phrase.partition(" ")[2]


def _starts_with_vowel(word: str) -> bool:
    return word[0].lower() in "aeiouéèêhœ"


def _the(phrase: str, before: str = "") -> str:
    """The definite article with its noun, and with an adjective between them when `before` is given."""
    words = f"{before} {_noun(phrase)}".strip()
    if _starts_with_vowel(words):
        return f"l'{words}"
    return f"{'la' if _feminine(phrase) else 'le'} {words}"


def _of(words: str) -> str:
    if words.startswith("le "):
        return f"du {words[3:]}"
    return f"d'{words}" if _starts_with_vowel(words) else f"de {words}"


def _at(words: str) -> str:
    return f"au {words[3:]}" if words.startswith("le ") else f"à {words}"


def _many(word: str) -> str:
    if word[-1] in "sx" or word == "marron":
        return word
    if word.endswith("al"):
        return f"{word[:-2]}aux"
    return f"{word}x" if word.endswith("eau") else f"{word}s"


def _coloured(colour: str, phrase: str) -> str:
    return COLOURS[colour][_feminine(phrase)]


def _person(trait: str, person: str) -> str:
    phrase = PEOPLE[person]
    feminine = _feminine(phrase)
    if trait == "happy":
        return f"{_the(phrase)} {'heureuse' if feminine else 'heureux'}"
    if trait == "old" and not feminine:
        return _the(phrase, "vieil" if _starts_with_vowel(_noun(phrase)) else "vieux")
    forms = {"old": ("vieux", "vieille"), "young": ("jeune", "jeune"), "tall": ("grand", "grande")}
    return _the(phrase, forms[trait][feminine])


def _animal_does(colour: str, animal: str, action: str, place: str, time: str) -> str:
    noun = ANIMALS[animal]
    return f"{_the(noun)} {_coloured(colour, noun)} {ACTIONS[action]} {PLACES[place][0]} {WHEN[time]}."


def _person_handles(trait: str, person: str, handling: str, colour: str, thing: str, time: str) -> str:
    what = OBJECTS[thing]
    return f"{_person(trait, person)} {HANDLINGS[handling]} {what} {_coloured(colour, what)} {WHEN[time]}."


def _person_eats(person: str, meal: str, food: str, place: str, time: str) -> str:
    return f"{_the(PEOPLE[person])} {MEALS[meal]} {FOODS[food]} {PLACES[place][0]} {WHEN[time]}."


def _person_goes(person: str, place: str, day: str, hour: str) -> str:
    at = "une heure" if hour == "1" else f"{NUMBERS[hour]} heures"
    return f"{_the(PEOPLE[person])} va {PLACES[place][1]} {WHEN[day]} à {at}."


def _person_gives(person: str, handover: str, animal: str, colour: str, thing: str) -> str:
    what = OBJECTS[thing]
    gift = f"{what} {_coloured(colour, what)}"
    return f"{_the(PEOPLE[person])} {HANDOVERS[handover]} {gift} {_at(_the(ANIMALS[animal]))}."


def _person_has(trait: str, person: str, number: str, colour: str, thing: str) -> str:
    what = OBJECTS[thing]
    goods = f"{NUMBERS[number]} {_many(_noun(what))} {_many(_coloured(colour, what))}"
    return f"{_person(trait, person)} a {goods}."


def _there_are(number: str, colour: str, animal: str, place: str) -> str:
    noun = ANIMALS[animal]
    return f"il y a {NUMBERS[number]} {_many(_noun(noun))} {_many(_coloured(colour, noun))} {PLACES[place][0]}."


def _thing_is(size: str, colour: str, thing: str, relation: str, furniture: str) -> str:
    what, where = OBJECTS[thing], _the(FURNITURE[furniture])
    sizes = {"big": ("grand", "grande"), "small": ("petit", "petite")}
    place = {
        "on": f"sur {where}",
        "under": f"sous {where}",
        "near": f"près {_of(where)}",
        "behind": f"derrière {where}",
    }
    return f"{_the(what, sizes[size][_feminine(what)])} {_coloured(colour, what)} est {place[relation]}."


def _weather_is(weather: str, place: str, time: str) -> str:
    return f"{WEATHER[weather]} {PLACES[place][0]} {WHEN[time]}."


def _animal_at(colour: str, animal: str, place: str) -> str:
    noun = ANIMALS[animal]
    return f"{_the(noun)} {_coloured(colour, noun)} est {PLACES[place][0]}."


def _things(number: str, colour: str, thing: str) -> str:
    what = OBJECTS[thing]
    return f"{NUMBERS[number]} {_many(_noun(what))} {_many(_coloured(colour, what))}."


def _person_acts(person: str, action: str, time: str) -> str:
    return f"{_the(PEOPLE[person])} {ACTIONS[action]} {WHEN[time]}."


def _person_owns(person: str, number: str, thing: str) -> str:
    return f"{_the(PEOPLE[person])} a {NUMBERS[number]} {_many(_noun(OBJECTS[thing]))}."


def _addition(a: str, b: str, total: str) -> Exchange:
    a, b, total = NUMBERS[a], NUMBERS[b], NUMBERS[total]
    return Exchange(
        (
            f"combien font {a} plus {b} ?",
            f"{a} plus {b}, ça fait combien ?",
            f"combien obtient-on en ajoutant {a} et {b} ?",
            f"additionne {a} et {b}, s'il te plaît.",
        ),
        (f"{total}.", f"ça fait {total}.", f"{a} plus {b} font {total}."),
    )


def _subtraction(a: str, b: str, rest: str) -> Exchange:
    a, b, rest = NUMBERS[a], NUMBERS[b], NUMBERS[rest]
    return Exchange(
        (
            f"combien font {a} moins {b} ?",
            f"{a} moins {b}, ça fait combien ?",
            f"combien reste-t-il si on enlève {b} de {a} ?",
            f"soustrais {b} de {a}, s'il te plaît.",
        ),
        (f"{rest}.", f"ça fait {rest}.", f"{a} moins {b} font {rest}."),
    )


def _colour(thing: str, colour: str) -> Exchange:
    noun = THINGS[thing]
    phrase, shade = _the(noun), _coloured(colour, noun)
    return Exchange(
        (
            f"de quelle couleur est {phrase} ?",
            f"quelle est la couleur {_of(phrase)} ?",
            f"dis-moi de quelle couleur est {phrase}.",
            f"sais-tu de quelle couleur est {phrase} ?",
        ),
        (f"{shade}.", f"{'elle' if _feminine(noun) else 'il'} est {shade}.", f"{phrase} est {shade}."),
    )


def _day_after(day: str, answer: str) -> Exchange:
    name = DAY_NAMES[day]
    own = (f"quel jour suit {name} ?", f"si c'est {name} aujourd'hui, quel jour sera demain ?")
    return _step("jour", "après", name, DAY_NAMES[answer], own)


def _day_before(day: str, answer: str) -> Exchange:
    name = DAY_NAMES[day]
    own = (f"quel jour est juste avant {name} ?", f"si c'est {name} aujourd'hui, quel jour était hier ?")
    return _step("jour", "avant", name, DAY_NAMES[answer], own)


def _month_after(month: str, answer: str) -> Exchange:
    name = MONTH_NAMES[month]
    own = (f"quel mois suit {name} ?", f"si c'est {name} maintenant, quel est le mois prochain ?")
    return _step("mois", "après", name, MONTH_NAMES[answer], own)


def _month_before(month: str, answer: str) -> Exchange:
    name = MONTH_NAMES[month]
    own = (f"quel mois est juste avant {name} ?", f"si c'est {name} maintenant, quel était le mois dernier ?")
    return _step("mois", "avant", name, MONTH_NAMES[answer], own)


def _number_after(number: str, answer: str) -> Exchange:
    name = NUMBERS[number]
    own = (f"quel nombre suit {name} ?", f"que dit-on après {name} quand on compte ?")
    return _step("nombre", "après", name, NUMBERS[answer], own)


def _number_before(number: str, answer: str) -> Exchange:
    name = NUMBERS[number]
    own = (f"quel nombre est juste avant {name} ?", f"que dit-on avant {name} quand on compte ?")
    return _step("nombre", "avant", name, NUMBERS[answer], own)


def _step(unit: str, side: str, known: str, answer: str, own: tuple[str, str]) -> Exchange:
    return Exchange(
        (f"quel {unit} vient {side} {known} ?", own[0], f"quel est le {unit} {side} {known} ?", own[1]),
        (f"{answer}.", f"c'est {answer}.", f"{side} {known} vient {answer}."),
    )


def _opposite(word: str, answer: str) -> Exchange:
    of_word, answer = _of(WORDS[word]), WORDS[answer]
    return Exchange(
        (
            f"quel est le contraire {of_word} ?",
            f"quel mot est le contraire {of_word} ?",
            f"dis-moi le contraire {of_word}.",
            f"connais-tu le contraire {of_word} ?",
        ),
        (f"{answer}.", f"c'est {answer}.", f"le contraire {of_word} est {answer}."),
    )


def _capital(country: str, city: str) -> Exchange:
    of_country, answer = _of(COUNTRIES[country]), CITIES[city]
    return Exchange(
        (
            f"quelle est la capitale {of_country} ?",
            f"quelle ville est la capitale {of_country} ?",
            f"dis-moi la capitale {of_country}.",
            f"connais-tu la capitale {of_country} ?",
        ),
        (f"{answer}.", f"c'est {answer}.", f"la capitale {of_country} est {answer}."),
    )


def _country(city: str, country: str) -> Exchange:
    name, answer = CITIES[city], COUNTRIES[country]
    return Exchange(
        (
            f"{name} est la capitale de quel pays ?",
            f"quel pays a pour capitale {name} ?",
            f"dis-moi quel pays a pour capitale {name}.",
            f"sais-tu quel pays a pour capitale {name} ?",
        ),
        (f"{answer}.", f"c'est {answer}.", f"{name} est la capitale {_of(answer)}."),
    )


def _compare(word: str, small: str, big: str, answer: str) -> Exchange:
    winner, loser = BEASTS[answer], BEASTS[small if answer == big else big]
    little, large, quality = BEASTS[small], BEASTS[big], WORDS[word]
    agreed = f"plus {quality}{'e' if _feminine(winner) else ''}"
    return Exchange(
        (
            f"lequel est plus {quality}, {little} ou {large} ?",
            f"qui est plus {quality}, {large} ou {little} ?",
            f"entre {little} et {large}, qui est plus {quality} ?",
            f"dis-moi qui est plus {quality}, {large} ou {little}.",
        ),
        (f"{winner}.", f"{_the(winner)} est {agreed}.", f"{winner} est {agreed} qu'{loser}."),
    )


LANGUAGE = Language(
    code="fr",
    name="French",
    voice="roa/fr",
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
        "bigger": lambda small, big, answer: _compare("big", small, big, answer),
        "smaller": lambda small, big, answer: _compare("small", small, big, answer),
    },
)
