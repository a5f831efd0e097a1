"""Spanish wording of the demo corpus: articles and adjectives agree with their noun, a + el and de + el contract."""

from cslm.demo.facts import MONTHS
from cslm.demo.facts import NUMBERS as DIGITS
from cslm.demo.grammar import DAYS, Exchange, Language

NUMBERS = dict(
    zip(
        DIGITS,
        "cero uno dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince dieciséis "
        "diecisiete dieciocho diecinueve veinte".split(),
        strict=True,
    )
)
# Nouns with their article; those ending in other than a vowel take -es in the plural.
PEOPLE = {"teacher": "el profesor", "doctor": "la doctora", "farmer": "el granjero", "singer": "la cantante"}
PEOPLE |= {"student": "el estudiante", "driver": "el conductor", "cook": "la cocinera", "neighbour": "la vecina"}
PEOPLE |= {"soldier": "el soldado", "painter": "el pintor"}
ANIMALS = {"cat": "el gato", "dog": "el perro", "horse": "el caballo", "bird": "el pájaro", "cow": "la vaca"}
ANIMALS |= {"rabbit": "el conejo", "sheep": "la oveja", "duck": "el pato"}
OBJECTS = {"book": "el libro", "cup": "la taza", "hat": "el sombrero", "shirt": "la camisa", "box": "la caja"}
OBJECTS |= {"bag": "la bolsa", "chair": "la silla", "ball": "la pelota", "bicycle": "la bicicleta"}
OBJECTS |= {"umbrella": "el paraguas"}
PLACES = {"garden": "el jardín", "park": "el parque", "forest": "el bosque", "kitchen": "la cocina"}
PLACES |= {"school": "la escuela", "market": "el mercado", "station": "la estación", "library": "la biblioteca"}
FURNITURE = {"table": "la mesa", "bed": "la cama", "car": "el coche", "sofa": "el sofá"}
THINGS = {"sky": "el cielo", "sea": "el mar", "grass": "la hierba", "frog": "la rana", "snow": "la nieve"}
THINGS |= {"milk": "la leche", "salt": "la sal", "blood": "la sangre", "tomato": "el tomate"}
THINGS |= {"strawberry": "la fresa", "lemon": "el limón", "banana": "el plátano", "coal": "el carbón"}
THINGS |= {"crow": "el cuervo", "chocolate": "el chocolate", "elephant": "el elefante"}
BEASTS = {"ant": "la hormiga", "mouse": "el ratón", "rabbit": "el conejo", "sheep": "la oveja"}
BEASTS |= {"horse": "el caballo", "elephant": "el elefante"}
FOODS = {"bread": "pan", "rice": "arroz", "fish": "pescado", "meat": "carne", "cheese": "queso", "eggs": "huevos"}
TRAITS = {"old": "viejo", "young": "joven", "tall": "alto", "happy": "contento"}
COLOURS = {"red": "rojo", "blue": "azul", "green": "verde", "yellow": "amarillo"}
COLOURS |= {"black": "negro", "white": "blanco", "brown": "marrón", "grey": "gris"}
SIZES = {"big": "grande", "small": "pequeño"}
RELATIONS = {"on": "sobre", "under": "debajo de", "near": "cerca de", "behind": "detrás de"}
DAY_NAMES = dict(zip(DAYS, "lunes martes miércoles jueves viernes sábado domingo".split(), strict=True))
MONTH_NAMES = dict(
    zip(
        MONTHS,
        "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre".split(),
        strict=True,
    )
)
WHEN = {"morning": "por la mañana", "afternoon": "por la tarde", "night": "por la noche"}
WHEN |= {"every day": "todos los días", "today": "hoy"} | {day: f"el {name}" for day, name in DAY_NAMES.items()}
WEATHER = {"hot": "hace calor", "cold": "hace frío", "rainy": "llueve", "snowy": "nieva"}
WEATHER |= {"windy": "hace viento", "sunny": "hace sol"}
ACTIONS = {"sleep": "duerme", "run": "corre", "play": "juega", "wait": "espera", "walk": "camina", "eat": "come"}
HANDLINGS = {"buy": "compra", "sell": "vende", "want": "quiere", "carry": "lleva", "paint": "pinta"}
MEALS = {"eat": "come", "prepare": "prepara"}
HANDOVERS = {"give": "da", "show": "muestra"}
WORDS = {"big": "grande", "small": "pequeño", "hot": "caliente", "cold": "frío", "fast": "rápido", "slow": "lento"}
WORDS |= {"good": "bueno", "bad": "malo", "open": "abierto", "closed": "cerrado", "full": "lleno", "empty": "vacío"}
WORDS |= {"day": "día", "night": "noche", "happy": "feliz", "sad": "triste", "rich": "rico", "poor": "pobre"}
WORDS |= {"clean": "limpio", "dirty": "sucio", "easy": "fácil", "difficult": "difícil", "wet": "mojado"}
WORDS |= {"dry": "seco", "strong": "fuerte", "weak": "débil"}
COUNTRIES = {"France": "Francia", "Spain": "España", "Italy": "Italia", "Germany": "Alemania", "China": "China"}
COUNTRIES |= {"Japan": "Japón", "Russia": "Rusia", "Egypt": "Egipto", "England": "Inglaterra"}
COUNTRIES |= {"Portugal": "Portugal", "Cuba": "Cuba", "Peru": "Perú"}
CITIES = {"Paris": "París", "Madrid": "Madrid", "Rome": "Roma", "Berlin": "Berlín", "Beijing": "Pekín"}
CITIES |= {"Tokyo": "Tokio", "Moscow": "Moscú", "Cairo": "El Cairo", "London": "Londres", "Lisbon": "Lisboa"}
CITIES |= {"Havana": "La Habana", "Lima": "Lima"}


def _noun(phrase: str) -> str:
    return phrase[3:]


def _one(phrase: str) -> str:
    return f"{'una' if phrase.startswith('la ') else 'un'} {_noun(phrase)}"


def _many(word: str) -> str:
    if word == "paraguas":
        return word
    if word[-1] in "aeo":
        return f"{word}s"
    return f"{word.replace('ó', 'o')}es"


def _agree(adjective: str, phrase: str) -> str:
    return f"{adjective[:-1]}a" if phrase.startswith("la ") and adjective.endswith("o") else adjective


def _contract(preposition: str, phrase: str) -> str:
    # A city's own article (El Cairo) stays whole.
    return f"{preposition}l {phrase[3:]}" if phrase.startswith("el ") else f"{preposition} {phrase}"


def _coloured(colour: str, phrase: str) -> str:
    return _agree(COLOURS[colour], phrase)


def _animal_does(colour: str, animal: str, action: str, place: str, time: str) -> str:
    noun = ANIMALS[animal]
    return f"{noun} {_coloured(colour, noun)} {ACTIONS[action]} en {PLACES[place]} {WHEN[time]}."


def _person_handles(trait: str, person: str, handling: str, colour: str, thing: str, time: str) -> str:
    who, what = PEOPLE[person], OBJECTS[thing]
    subject = f"{who} {_agree(TRAITS[trait], who)}"
    return f"{subject} {HANDLINGS[handling]} {_one(what)} {_coloured(colour, what)} {WHEN[time]}."


def _person_eats(person: str, meal: str, food: str, place: str, time: str) -> str:
    return f"{PEOPLE[person]} {MEALS[meal]} {FOODS[food]} en {PLACES[place]} {WHEN[time]}."


def _person_goes(person: str, place: str, day: str, hour: str) -> str:
    at = "a la una" if hour == "1" else f"a las {NUMBERS[hour]}"
    return f"{PEOPLE[person]} va {_contract('a', PLACES[place])} {WHEN[day]} {at}."


def _person_gives(person: str, handover: str, animal: str, colour: str, thing: str) -> str:
    what = OBJECTS[thing]
    gift = f"{_one(what)} {_coloured(colour, what)}"
    return f"{PEOPLE[person]} le {HANDOVERS[handover]} {gift} {_contract('a', ANIMALS[animal])}."


def _person_has(trait: str, person: str, number: str, colour: str, thing: str) -> str:
    who, what = PEOPLE[person], OBJECTS[thing]
    goods = f"{NUMBERS[number]} {_many(_noun(what))} {_many(_coloured(colour, what))}"
    return f"{who} {_agree(TRAITS[trait], who)} tiene {goods}."


def _there_are(number: str, colour: str, animal: str, place: str) -> str:
    noun = ANIMALS[animal]
    return f"hay {NUMBERS[number]} {_many(_noun(noun))} {_many(_coloured(colour, noun))} en {PLACES[place]}."


def _thing_is(size: str, colour: str, thing: str, relation: str, furniture: str) -> str:
    what, where = OBJECTS[thing], FURNITURE[furniture]
    words = RELATIONS[relation]
    place = _contract(words, where) if words.endswith(" de") else f"{words} {where}"
    return f"{what} {_coloured(colour, what)} {_agree(SIZES[size], what)} está {place}."


def _weather_is(weather: str, place: str, time: str) -> str:
    return f"{WEATHER[weather]} en {PLACES[place]} {WHEN[time]}."


def _animal_at(colour: str, animal: str, place: str) -> str:
    noun = ANIMALS[animal]
    return f"{noun} {_coloured(colour, noun)} está en {PLACES[place]}."


def _things(number: str, colour: str, thing: str) -> str:
    what = OBJECTS[thing]
    return f"{NUMBERS[number]} {_many(_noun(what))} {_many(_coloured(colour, what))}."


def _person_acts(person: str, action: str, time: str) -> str:
    return f"{PEOPLE[person]} {ACTIONS[action]} {WHEN[time]}."


def _person_owns(person: str, number: str, thing: str) -> str:
    return f"{PEOPLE[person]} tiene {NUMBERS[number]} {_many(_noun(OBJECTS[thing]))}."


def _is(number: str) -> str:
    return "es" if number in ("0", "1") else "son"


def _addition(a: str, b: str, total: str) -> Exchange:
    x, y, z = NUMBERS[a], NUMBERS[b], NUMBERS[total]
    return Exchange(
        (
            f"¿cuánto es {x} más {y}?",
            f"¿cuántos son {x} más {y}?",
            f"¿qué resulta al sumar {x} y {y}?",
            f"suma {x} y {y}, por favor.",
        ),
        (f"{z}.", f"{_is(total)} {z}.", f"{x} más {y} {_is(total)} {z}."),
    )


def _subtraction(a: str, b: str, rest: str) -> Exchange:
    x, y, z = NUMBERS[a], NUMBERS[b], NUMBERS[rest]
    return Exchange(
        (
            f"¿cuánto es {x} menos {y}?",
            f"¿cuántos son {x} menos {y}?",
            f"¿cuánto queda al quitar {y} de {x}?",
            f"resta {y} de {x}, por favor.",
        ),
        (f"{z}.", f"{_is(rest)} {z}.", f"{x} menos {y} {_is(rest)} {z}."),
    )


def _colour(thing: str, colour: str) -> Exchange:
    phrase = THINGS[thing]
    shade = _coloured(colour, phrase)
    return Exchange(
        (
            f"¿de qué color es {phrase}?",
            f"¿cuál es el color {_contract('de', phrase)}?",
            f"dime de qué color es {phrase}.",
            f"¿sabes de qué color es {phrase}?",
        ),
        (f"{shade}.", f"es {shade}.", f"{phrase} es {shade}."),
    )


def _day_after(day: str, answer: str) -> Exchange:
    name = DAY_NAMES[day]
    own = (f"¿qué día sigue al {name}?", f"si hoy es {name}, ¿qué día es mañana?")
    return _step("día", f"después del {name}", DAY_NAMES[answer], f"el {DAY_NAMES[answer]}", own)


def _day_before(day: str, answer: str) -> Exchange:
    name = DAY_NAMES[day]
    own = (f"¿qué día hay justo antes del {name}?", f"si hoy es {name}, ¿qué día fue ayer?")
    return _step("día", f"antes del {name}", DAY_NAMES[answer], f"el {DAY_NAMES[answer]}", own)


def _month_after(month: str, answer: str) -> Exchange:
    name, reply = MONTH_NAMES[month], MONTH_NAMES[answer]
    own = (f"¿qué mes sigue a {name}?", f"si ahora es {name}, ¿cuál es el mes próximo?")
    return _step("mes", f"después de {name}", reply, reply, own)


def _month_before(month: str, answer: str) -> Exchange:
    name, reply = MONTH_NAMES[month], MONTH_NAMES[answer]
    own = (f"¿qué mes hay justo antes de {name}?", f"si ahora es {name}, ¿cuál fue el mes pasado?")
    return _step("mes", f"antes de {name}", reply, reply, own)


def _number_after(number: str, answer: str) -> Exchange:
    name, reply = NUMBERS[number], NUMBERS[answer]
    own = (f"¿qué número sigue al {name}?", f"¿qué dices después de {name} cuando cuentas?")
    return _step("número", f"después del {name}", reply, f"el {reply}", own)


def _number_before(number: str, answer: str) -> Exchange:
    name, reply = NUMBERS[number], NUMBERS[answer]
    own = (f"¿qué número hay justo antes del {name}?", f"¿qué dices antes de {name} cuando cuentas?")
    return _step("número", f"antes del {name}", reply, f"el {reply}", own)


def _step(unit: str, side: str, answer: str, phrase: str, own: tuple[str, str]) -> Exchange:
    return Exchange(
        (f"¿qué {unit} viene {side}?", own[0], f"¿cuál es el {unit} {side}?", own[1]),
        (f"{answer}.", f"es {phrase}.", f"{side} viene {phrase}."),
    )


def _opposite(word: str, answer: str) -> Exchange:
    word, answer = WORDS[word], WORDS[answer]
    return Exchange(
        (
            f"¿cuál es el contrario de {word}?",
            f"¿qué palabra es el contrario de {word}?",
            f"dime el contrario de {word}.",
            f"¿sabes cuál es el contrario de {word}?",
        ),
        (f"{answer}.", f"es {answer}.", f"el contrario de {word} es {answer}."),
    )


def _capital(country: str, city: str) -> Exchange:
    name, answer = COUNTRIES[country], CITIES[city]
    return Exchange(
        (
            f"¿cuál es la capital de {name}?",
            f"¿qué ciudad es la capital de {name}?",
            f"dime la capital de {name}.",
            f"¿sabes cuál es la capital de {name}?",
        ),
        (f"{answer}.", f"es {answer}.", f"la capital de {name} es {answer}."),
    )


def _country(city: str, country: str) -> Exchange:
    name, answer = CITIES[city], COUNTRIES[country]
    return Exchange(
        (
            f"¿{name} es la capital de qué país?",
            f"¿qué país tiene la capital {name}?",
            f"dime qué país tiene la capital {name}.",
            f"¿sabes qué país tiene la capital {name}?",
        ),
        (f"{answer}.", f"es {answer}.", f"{name} es la capital de {answer}."),
    )


def _compare(word: str, small: str, big: str, answer: str) -> Exchange:
    winner, loser = BEASTS[answer], _one(BEASTS[small if answer == big else big])
    little, large, quality = _one(BEASTS[small]), _one(BEASTS[big]), WORDS[word]
    return Exchange(
        (
            f"¿qué es más {quality}, {little} o {large}?",
            f"¿cuál es más {quality}, {large} o {little}?",
            f"entre {little} y {large}, ¿qué es más {quality}?",
            f"dime qué es más {quality}, {large} o {little}.",
        ),
        (
            f"{_one(winner)}.",
            f"{winner} es más {_agree(quality, winner)}.",
            f"{_one(winner)} es más {_agree(quality, winner)} que {loser}.",
        ),
    )


LANGUAGE = Language(
    code="es",
    name="Spanish",
    voice="roa/es",
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
