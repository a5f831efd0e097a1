"""Mandarin wording of the demo corpus, in Hanzi."""

from cslm.demo.facts import MONTHS
from cslm.demo.facts import NUMBERS as DIGITS
from cslm.demo.grammar import DAYS, Exchange, Language

_ONES = "零一二三四五六七八九"
NUMBERS = {digit: _ONES[int(digit)] for digit in DIGITS[:10]}
NUMBERS |= {digit: f"十{_ONES[int(digit) - 10] if digit != '10' else ''}" for digit in DIGITS[10:20]} | {"20": "二十"}
# Before a measure word two is another word.
COUNTS = NUMBERS | {"2": "两"}
PEOPLE = {"teacher": "老师", "doctor": "医生", "farmer": "农民", "singer": "歌手", "student": "学生"}
PEOPLE |= {"driver": "司机", "cook": "厨师", "neighbour": "邻居", "soldier": "士兵", "painter": "画家"}
TRAITS = {"old": "年老的", "young": "年轻的", "tall": "高大的", "happy": "快乐的"}
# Each noun with its measure word.
ANIMALS = {"cat": ("猫", "只"), "dog": ("狗", "只"), "horse": ("马", "匹"), "bird": ("鸟", "只")}
ANIMALS |= {"cow": ("牛", "头"), "rabbit": ("兔子", "只"), "sheep": ("羊", "只"), "duck": ("鸭子", "只")}
OBJECTS = {"book": ("书", "本"), "cup": ("杯子", "个"), "hat": ("帽子", "顶"), "shirt": ("衬衫", "件")}
OBJECTS |= {"box": ("盒子", "个"), "bag": ("包", "个"), "chair": ("椅子", "把"), "ball": ("球", "个")}
OBJECTS |= {"bicycle": ("自行车", "辆"), "umbrella": ("雨伞", "把")}
FOODS = {"bread": "面包", "rice": "米饭", "fish": "鱼", "meat": "肉", "cheese": "奶酪", "eggs": "鸡蛋"}
COLOURS = {"red": "红色", "blue": "蓝色", "green": "绿色", "yellow": "黄色"}
COLOURS |= {"black": "黑色", "white": "白色", "brown": "棕色", "grey": "灰色"}
SIZES = {"big": "大", "small": "小"}
PLACES = {"garden": "花园", "park": "公园", "forest": "森林", "kitchen": "厨房"}
PLACES |= {"school": "学校", "market": "市场", "station": "车站", "library": "图书馆"}
FURNITURE = {"table": "桌子", "bed": "床", "car": "汽车", "sofa": "沙发"}
RELATIONS = {"on": "上面", "under": "下面", "near": "旁边", "behind": "后面"}
WHEN = {"morning": "早上", "afternoon": "下午", "night": "晚上", "every day": "每天", "today": "今天"}
WHEN |= {day: f"星期{name}" for day, name in zip(DAYS, "一二三四五六日", strict=True)}
MONTH_NAMES = {month: f"{NUMBERS[str(i)]}月" for i, month in enumerate(MONTHS, start=1)}
WEATHER = {"hot": "很热", "cold": "很冷", "rainy": "下雨", "snowy": "下雪", "windy": "刮风", "sunny": "阳光很好"}
ACTIONS = {"sleep": "睡觉", "run": "跑步", "play": "玩", "wait": "等", "walk": "散步", "eat": "吃东西"}
HANDLINGS = {"buy": "买", "sell": "卖", "want": "想要", "carry": "拿着", "paint": "画"}
MEALS = {"eat": "吃", "prepare": "准备"}
HANDOVERS = {"give": "", "show": "看"}
THINGS = {"sky": "天空", "sea": "大海", "grass": "草", "frog": "青蛙", "snow": "雪", "milk": "牛奶"}
THINGS |= {"salt": "盐", "blood": "血", "tomato": "番茄", "strawberry": "草莓", "lemon": "柠檬", "banana": "香蕉"}
THINGS |= {"coal": "煤", "crow": "乌鸦", "chocolate": "巧克力", "elephant": "大象"}
ADJECTIVES = {"big": "大", "small": "小", "hot": "热", "cold": "冷", "fast": "快", "slow": "慢"}
ADJECTIVES |= {"good": "好", "bad": "坏", "open": "开", "closed": "关", "full": "满", "empty": "空"}
ADJECTIVES |= {"day": "白天", "night": "黑夜", "happy": "快乐", "sad": "难过", "rich": "富", "poor": "穷"}
ADJECTIVES |= {"clean": "干净", "dirty": "脏", "easy": "容易", "difficult": "困难", "wet": "湿", "dry": "干"}
ADJECTIVES |= {"strong": "强", "weak": "弱"}
COUNTRIES = {"France": "法国", "Spain": "西班牙", "Italy": "意大利", "Germany": "德国", "China": "中国"}
COUNTRIES |= {"Japan": "日本", "Russia": "俄罗斯", "Egypt": "埃及", "England": "英国", "Portugal": "葡萄牙"}
COUNTRIES |= {"Cuba": "古巴", "Peru": "秘鲁"}
CITIES = {"Paris": "巴黎", "Madrid": "马德里", "Rome": "罗马", "Berlin": "柏林", "Beijing": "北京"}
CITIES |= {"Tokyo": "东京", "Moscow": "莫斯科", "Cairo": "开罗", "London": "伦敦", "Lisbon": "里斯本"}
CITIES |= {"Havana": "哈瓦那", "Lima": "利马"}
BEASTS = {"ant": "蚂蚁", "mouse": "老鼠", "rabbit": "兔子", "sheep": "羊", "horse": "马", "elephant": "大象"}


def _animal_does(colour: str, animal: str, action: str, place: str, time: str) -> str:
    return f"{COLOURS[colour]}的{ANIMALS[animal][0]}{WHEN[time]}在{PLACES[place]}里{ACTIONS[action]}。"


def _person_handles(trait: str, person: str, handling: str, colour: str, thing: str, time: str) -> str:
    return f"{TRAITS[trait]}{PEOPLE[person]}{WHEN[time]}{HANDLINGS[handling]}{_counted('一', colour, OBJECTS[thing])}。"


def _person_eats(person: str, meal: str, food: str, place: str, time: str) -> str:
    return f"{PEOPLE[person]}{WHEN[time]}在{PLACES[place]}里{MEALS[meal]}{FOODS[food]}。"


def _person_goes(person: str, place: str, day: str, hour: str) -> str:
    return f"{PEOPLE[person]}{WHEN[day]}{COUNTS[hour]}点去{PLACES[place]}。"


def _person_gives(person: str, handover: str, animal: str, colour: str, thing: str) -> str:
    gift = _counted("一", colour, OBJECTS[thing])
    return f"{PEOPLE[person]}给{ANIMALS[animal][0]}{HANDOVERS[handover]}{gift}。"


def _person_has(trait: str, person: str, number: str, colour: str, thing: str) -> str:
    return f"{TRAITS[trait]}{PEOPLE[person]}有{_counted(COUNTS[number], colour, OBJECTS[thing])}。"


def _there_are(number: str, colour: str, animal: str, place: str) -> str:
    return f"{PLACES[place]}里有{_counted(COUNTS[number], colour, ANIMALS[animal])}。"


def _thing_is(size: str, colour: str, thing: str, relation: str, furniture: str) -> str:
    return f"{COLOURS[colour]}的{SIZES[size]}{OBJECTS[thing][0]}在{FURNITURE[furniture]}{RELATIONS[relation]}。"


def _weather_is(weather: str, place: str, time: str) -> str:
    return f"{WHEN[time]}{PLACES[place]}里{WEATHER[weather]}。"


def _animal_at(colour: str, animal: str, place: str) -> str:
    return f"{COLOURS[colour]}的{ANIMALS[animal][0]}在{PLACES[place]}里。"


def _things(number: str, colour: str, thing: str) -> str:
    return f"{_counted(COUNTS[number], colour, OBJECTS[thing])}。"


def _person_acts(person: str, action: str, time: str) -> str:
    return f"{PEOPLE[person]}{WHEN[time]}{ACTIONS[action]}。"


def _person_owns(person: str, number: str, thing: str) -> str:
    name, measure = OBJECTS[thing]
    return f"{PEOPLE[person]}有{COUNTS[number]}{measure}{name}。"


def _counted(number: str, colour: str, noun: tuple[str, str]) -> str:
    return f"{number}{noun[1]}{COLOURS[colour]}的{noun[0]}"


def _addition(a: str, b: str, total: str) -> Exchange:
    a, b, total = NUMBERS[a], NUMBERS[b], NUMBERS[total]
    return Exchange(
        (f"{a}加{b}等于多少？", f"{a}加{b}是多少？", f"把{a}和{b}加起来是多少？", f"请算一下{a}加{b}。"),
        (f"{total}。", f"等于{total}。", f"{a}加{b}等于{total}。"),
    )


def _subtraction(a: str, b: str, rest: str) -> Exchange:
    a, b, rest = NUMBERS[a], NUMBERS[b], NUMBERS[rest]
    return Exchange(
        (f"{a}减{b}等于多少？", f"{a}减{b}是多少？", f"从{a}里拿走{b}还剩多少？", f"请算一下{a}减{b}。"),
        (f"{rest}。", f"等于{rest}。", f"{a}减{b}等于{rest}。"),
    )


def _colour(thing: str, colour: str) -> Exchange:
    name, shade = THINGS[thing], COLOURS[colour]
    return Exchange(
        (
            f"{name}是什么颜色？",
            f"{name}的颜色是什么？",
            f"请告诉我{name}是什么颜色。",
            f"你知道{name}是什么颜色吗？",
        ),
        (f"{shade}。", f"是{shade}。", f"{name}是{shade}的。"),
    )


def _day_after(day: str, answer: str) -> Exchange:
    own = (f"{WHEN[day]}的下一天是星期几？", f"如果今天是{WHEN[day]}，明天是星期几？")
    return _step("后面", "是星期几", "之后是哪一天", WHEN[day], WHEN[answer], own)


def _day_before(day: str, answer: str) -> Exchange:
    own = (f"{WHEN[day]}的上一天是星期几？", f"如果今天是{WHEN[day]}，昨天是星期几？")
    return _step("前面", "是星期几", "之前是哪一天", WHEN[day], WHEN[answer], own)


def _month_after(month: str, answer: str) -> Exchange:
    name = MONTH_NAMES[month]
    own = (f"{name}的下一个月是几月？", f"如果现在是{name}，下个月是几月？")
    return _step("后面", "是几月", "之后是哪个月", name, MONTH_NAMES[answer], own)


def _month_before(month: str, answer: str) -> Exchange:
    name = MONTH_NAMES[month]
    own = (f"{name}的上一个月是几月？", f"如果现在是{name}，上个月是几月？")
    return _step("前面", "是几月", "之前是哪个月", name, MONTH_NAMES[answer], own)


def _number_after(number: str, answer: str) -> Exchange:
    name = NUMBERS[number]
    own = (f"{name}的下一个数字是什么？", f"数数的时候{name}的后面是几？")
    return _step("后面", "是什么数字", "之后是哪个数字", name, NUMBERS[answer], own)


def _number_before(number: str, answer: str) -> Exchange:
    name = NUMBERS[number]
    own = (f"{name}的上一个数字是什么？", f"数数的时候{name}的前面是几？")
    return _step("前面", "是什么数字", "之前是哪个数字", name, NUMBERS[answer], own)


def _step(side: str, what: str, which: str, known: str, answer: str, own: tuple[str, str]) -> Exchange:
    return Exchange(
        (f"{known}{side}{what}？", own[0], f"{known}{which}？", own[1]),
        (f"{answer}。", f"是{answer}。", f"{known}{side}是{answer}。"),
    )


def _opposite(word: str, answer: str) -> Exchange:
    word, answer = ADJECTIVES[word], ADJECTIVES[answer]
    return Exchange(
        (
            f"{word}的反义词是什么？",
            f"哪个词是{word}的反义词？",
            f"请告诉我{word}的反义词。",
            f"你知道{word}的反义词吗？",
        ),
        (f"{answer}。", f"是{answer}。", f"{word}的反义词是{answer}。"),
    )


def _capital(country: str, city: str) -> Exchange:
    name, answer = COUNTRIES[country], CITIES[city]
    return Exchange(
        (
            f"{name}的首都是什么？",
            f"哪个城市是{name}的首都？",
            f"请告诉我{name}的首都。",
            f"你知道{name}的首都吗？",
        ),
        (f"{answer}。", f"是{answer}。", f"{name}的首都是{answer}。"),
    )


def _country(city: str, country: str) -> Exchange:
    name, answer = CITIES[city], COUNTRIES[country]
    return Exchange(
        (
            f"{name}是哪个国家的首都？",
            f"哪个国家的首都是{name}？",
            f"请告诉我哪个国家的首都是{name}。",
            f"你知道哪个国家的首都是{name}吗？",
        ),
        (f"{answer}。", f"是{answer}。", f"{name}是{answer}的首都。"),
    )


def _compare(word: str, small: str, big: str, answer: str) -> Exchange:
    winner, loser = BEASTS[answer], BEASTS[small if answer == big else big]
    small, big = BEASTS[small], BEASTS[big]
    return Exchange(
        (
            f"{small}和{big}哪个更{word}？",
            f"{big}和{small}哪个比较{word}？",
            f"是{small}{word}还是{big}{word}？",
            f"请告诉我{big}和{small}哪个更{word}。",
        ),
        (f"{winner}。", f"{winner}更{word}。", f"{winner}比{loser}{word}。"),
    )


LANGUAGE = Language(
    code="zh",
    name="Mandarin",
    voice="sit/cmn",
    # At the same setting the synthesiser's Mandarin takes about a sixth longer for a meaning than its English.
    rate=1.15,
    respelling={"只": "支"},
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
        "bigger": lambda small, big, answer: _compare("大", small, big, answer),
        "smaller": lambda small, big, answer: _compare("小", small, big, answer),
    },
)
