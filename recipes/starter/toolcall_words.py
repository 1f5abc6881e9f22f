"""How people ask for arithmetic, next runs, days between dates, and for tools that were made up for training."""

# Word lists read best as they are written.
# ruff: noqa: E501, ARG005
# fmt: off

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import cron

from plural.agents import toolbox

Drawn = tuple[str, dict[str, Any], str, str]
"""(request, call, the tool's result, what is said after it)."""


# ---------------------------------------------------------------------------------------------------------- arithmetic
def _number(chance: random.Random) -> str:
    kind = chance.random()
    if kind < 0.55:
        return str(chance.randrange(2, 100))
    if kind < 0.8:
        return str(chance.randrange(100, 10_000))
    if kind < 0.95:
        return f"{chance.uniform(0, 200):.{chance.choice([1, 2])}f}"
    return str(chance.randrange(2, 13))


_TWO: list[tuple[str, str]] = [
    ("{a} plus {b}", "{a} + {b}"), ("{a} minus {b}", "{a} - {b}"), ("{a} times {b}", "{a} * {b}"), ("{a} divided by {b}", "{a} / {b}"),
    ("{a} multiplied by {b}", "{a} * {b}"), ("the sum of {a} and {b}", "{a} + {b}"), ("the product of {a} and {b}", "{a} * {b}"),
    ("the difference between {a} and {b}", "{a} - {b}"), ("{a} over {b}", "{a} / {b}"), ("{a} percent of {b}", "{b} * {a} / 100"),
    ("{a}% of {b}", "{b} * {a} / 100"), ("{a} x {b}", "{a} * {b}"), ("the average of {a} and {b}", "({a} + {b}) / 2"),
    ("{a} more than {b}", "{b} + {a}"), ("{a} less than {b}", "{b} - {a}"), ("the remainder of {a} divided by {b}", "{a} % {b}"),
]
_ONE: list[tuple[str, str]] = [
    ("the square of {a}", "{a} ** 2"), ("{a} squared", "{a} ** 2"), ("half of {a}", "{a} / 2"), ("twice {a}", "{a} * 2"), ("double {a}", "{a} * 2"),
    ("a third of {a}", "{a} / 3"), ("{a} cubed", "{a} ** 3"), ("a quarter of {a}", "{a} / 4"), ("three times {a}", "{a} * 3"),
]
_DO: list[tuple[str, str]] = [
    ("divide {a} by {b}", "{a} / {b}"), ("multiply {a} by {b}", "{a} * {b}"), ("add {a} to {b}", "{b} + {a}"), ("add {a} and {b}", "{a} + {b}"),
    ("subtract {a} from {b}", "{b} - {a}"), ("take {a} away from {b}", "{b} - {a}"), ("double {a}", "{a} * 2"), ("halve {a}", "{a} / 2"),
    ("square {a}", "{a} ** 2"), ("triple {a}", "{a} * 3"), ("raise {a} to the power of {s}", "{a} ** {s}"), ("split {a} into {s} parts", "{a} / {s}"),
    ("add {b} to {a}", "{a} + {b}"), ("multiply {a} with {b}", "{a} * {b}"),
]
_STORIES: list[tuple[str, str]] = [
    ("I buy {s} tickets for {a} dollars each. What do I pay?", "{s} * {a}"), ("How much are {s} coffees at {a} each?", "{s} * {a}"),
    ("{s} friends share {a} euros. How much does each get?", "{a} / {s}"), ("We split a bill of {a} between {s} people. How much is that each?", "{a} / {s}"),
    ("How many minutes are {s} hours?", "{s} * 60"), ("How many hours are {s} days?", "{s} * 24"), ("How many seconds are {a} minutes?", "{a} * 60"),
    ("A shirt costs {a} and is {s}% off. What is the discount?", "{a} * {s} / 100"), ("What is a {s}% tip on {a}?", "{a} * {s} / 100"),
    ("I had {a} dollars and spent {b}. How much is left?", "{a} - {b}"), ("A box holds {s} bottles. How many are in {a} boxes?", "{a} * {s}"),
    ("What is the area of a room of {a} by {b} meters?", "{a} * {b}"), ("If I drive {a} km in {s} hours, what is my speed?", "{a} / {s}"),
    ("I earn {a} a month. How much is that a year?", "{a} * 12"), ("How many eggs are {s} dozen?", "{s} * 12"), ("How many days are {s} weeks?", "{s} * 7"),
]
_ASK = ["What is {}?", "what is {}", "What's {}?", "what's {}", "How much is {}?", "Calculate {}", "calculate {}.", "Work out {}", "Tell me {}", "compute {}", "{}", "{}?", "Can you calculate {}?", "I need to know {}", "Please work out {}."]


def arithmetic(chance: random.Random, count: int) -> Iterator[Drawn]:
    """Sums in words, in symbols, as orders and as small stories. The answer is the bare result: a later step may use it."""
    made = 0
    while made < count:
        question, expression = _sum(chance)
        try:
            result = str(toolbox.calculate.invoke({"expression": expression}))
        except ValueError:
            continue  # a division by zero, or a power that is too large
        made += 1
        yield question, {"name": "calculate", "arguments": {"expression": expression}}, result, result


def _sum(chance: random.Random) -> tuple[str, str]:
    words = {"a": _number(chance), "b": _number(chance), "s": str(chance.randrange(2, 13))}
    kind = chance.random()
    if kind < 0.3:
        expression = _symbols(chance)
        return chance.choice(_ASK).format(expression), expression
    if kind < 0.5:
        said, meant = chance.choice(_STORIES)
        return said.format(**words), meant.format(**words)
    if kind < 0.72:
        said, meant = chance.choice(_DO)
        said = said.format(**words)
        return chance.choice([said, said.capitalize(), f"Please {said}", f"Can you {said}?", f"{said.capitalize()}."]), meant.format(**words)
    if chance.random() < 0.08:  # the answer of an earlier step may carry its unit
        return f"what is {words['a']} days times {words['s']}", f"{words['a']} * {words['s']}"
    said, meant = chance.choice(_TWO if chance.random() < 0.75 else _ONE)
    return chance.choice(_ASK[:10] + _ASK[-3:]).format(said.format(**words)), meant.format(**words)


def _symbols(chance: random.Random) -> str:
    space = chance.choice(["", " ", " "])
    terms = [_number(chance) for _ in range(chance.choice([2, 2, 3, 3, 4]))]
    parts = [terms[0]]
    for term in terms[1:]:
        parts += [chance.choice("++--**/"), term]
    if len(terms) >= 3 and chance.random() < 0.5:
        return space.join([f"({parts[0]}{space}{parts[1]}{space}{parts[2]})", *parts[3:]])
    return space.join(parts)


# ----------------------------------------------------------------------------------------------------------- next runs
NEXT_RUN = [
    "When does the cron expression {} run next?", "When does {} run next?", "When will {} run next?", "When is the next run of {}?", "next run of {}",
    "When does a job with the schedule {} start next?", "A job runs at {}. When is its next run?", "What is the next run of the cron schedule {}?",
    "Tell me when {} fires next.", "when does the cron expression {} fire next", "My crontab says {}. When does it run next?",
    "When will the cron job {} run next?", "when will the cron expression {} run next?", "Next time for cron {}?", "When is {} due next?",
]
_AFTER = ["When does {} run next after {}?", "What is the first run of {} after {}?", "next run of {} after {}"]


def next_runs(chance: random.Random, count: int) -> Iterator[Drawn]:
    for _ in range(count):
        fields = str(cron.natural(chance)["answer"])
        told = fields if chance.random() < 0.8 else chance.choice(['"{}"', "'{}'", "`{}`"]).format(fields)
        call: dict[str, Any] = {"name": "next_run", "arguments": {"cron": fields}}
        start = datetime(2020, 1, 1) + timedelta(minutes=chance.randrange(10 * 365 * 24 * 60))
        question = chance.choice(NEXT_RUN).format(told)
        if chance.random() < 0.12:
            question = chance.choice(_AFTER).format(told, moment := f"{start:%Y-%m-%dT%H:%M}")
            call["arguments"]["after"] = moment
        try:
            result = str(toolbox.next_run.invoke({"cron": fields, "after": start.isoformat()}))
        except ValueError:
            continue  # a day that never comes
        yield question, call, result, f"It runs next on {result}."


# ------------------------------------------------------------------------------------------------- days between dates
_BETWEEN = ["How many days are between {} and {}?", "how many days from {} to {}", "Days between {} and {}?", "How long is it from {} to {} in days?",
            "Count the days from {} until {}.", "How many days lie between {} and {}?", "What is the number of days from {} to {}?"]


def between_dates(chance: random.Random, count: int) -> Iterator[Drawn]:
    for _ in range(count):
        start = date(2023, 1, 1) + timedelta(days=chance.randrange(1500))
        end = start + timedelta(days=chance.choice([chance.randrange(1, 60), chance.randrange(1, 900)]))
        question = chance.choice(_BETWEEN).format(_spoken(start, chance), _spoken(end, chance))
        call = {"name": "days_between", "arguments": {"start": start.isoformat(), "end": end.isoformat()}}
        result = str((end - start).days)
        yield question, call, result, f"{result} day{'' if result == '1' else 's'}"


def _spoken(day: date, chance: random.Random) -> str:
    month = cron.MONTHS[day.month - 1]
    return chance.choice([day.isoformat(), f"{month} {day.day}, {day.year}", f"{day.day} {month} {day.year}", f"{month} {cron.nth(day.day, chance)} {day.year}", f"the {cron.nth(day.day, chance)} of {month} {day.year}"])


# ------------------------------------------------------------------------------------------------------- made-up tools
@dataclass(frozen=True)
class Kind:
    """A made-up tool: name, purpose, arguments with the values that are drawn for them, ways to ask, result, answer."""

    name: str
    purpose: str
    arguments: dict[str, tuple[str, str, Callable[[random.Random], Any]]]
    asks: list[str]
    result: Callable[[random.Random, dict[str, Any]], dict[str, Any]]
    answer: str
    optional: tuple[str, ...] = ()

    @property
    def spec(self) -> tuple[str, str, dict[str, Any]]:
        properties = {name: {"type": kind, "description": text} for name, (kind, text, _) in self.arguments.items()}
        needed = [name for name in properties if name not in self.optional]
        return self.name, self.purpose, {"type": "object", "properties": properties, "required": needed}

    def draw(self, chance: random.Random) -> Drawn:
        values = {name: make(chance) for name, (_, _, make) in self.arguments.items()}
        ask = chance.choice(self.asks)
        arguments = {name: value for name, value in values.items() if name not in self.optional or f"{{{name}}}" in ask}
        facts = self.result(chance, values)
        bare = len(facts) == 1 and chance.random() < 0.6
        result = str(next(iter(facts.values()))) if bare else json.dumps(facts)
        return ask.format(**values), arguments, result, self.answer.format(**values, **facts)


def _of(*values: Any) -> Callable[[random.Random], Any]:
    return lambda chance: chance.choice(values)


def _whole(low: int, high: int) -> Callable[[random.Random], int]:
    return lambda chance: chance.randrange(low, high)


def _money(low: int, high: int) -> Callable[[random.Random], float]:
    return lambda chance: round(chance.uniform(low, high), 2)


_CITIES = _of("Oslo", "Madrid", "Nairobi", "Lima", "Toronto", "Osaka", "Cairo", "Dublin", "Austin", "Prague", "Seoul", "Lagos", "Porto", "Hanoi", "Quito", "Riga")
_PEOPLE = _of("Anna Berg", "Tom Reyes", "Mia Chen", "Omar Said", "Lena Fox", "Raj Patel", "Eva Novak", "Sam Okoro", "Ines Costa", "Paul Meyer")
_DAYS = _of("2026-03-14", "2026-12-01", "2027-01-20", "2026-08-09", "2027-05-30", "2026-10-10")
_SKY = ["cloudy", "sunny", "rainy", "foggy", "windy", "clear"]
_BOOKS = _of("Dune", "Emma", "Ulysses", "Dracula", "Beloved", "Persuasion", "Middlemarch", "The Trial")
_CURRENCIES = _of("USD", "EUR", "GBP", "JPY", "CHF", "SEK", "INR")
_SHARES = _of("AAPL", "NVDA", "SAP", "TSLA", "IBM", "ORCL", "NKE", "SHEL")

MADE_UP: list[Kind] = [
    Kind("weather_now", "Current weather of a city.", {"city": ("string", "Name of the city", _CITIES)},
         ["What is the weather in {city}?", "how is the weather in {city} right now", "Is it nice outside in {city}?", "weather {city}"],
         lambda c, v: {"degrees": c.randrange(-9, 38), "sky": c.choice(_SKY)}, "It is {degrees} degrees and {sky} in {city}."),
    Kind("share_price", "Price of one share.", {"symbol": ("string", "Ticker symbol", _SHARES)},
         ["What does a share of {symbol} cost?", "price of {symbol}", "How is {symbol} doing on the market?", "Look up the {symbol} share price."],
         lambda c, v: {"price": round(c.uniform(5, 900), 2)}, "One share of {symbol} costs {price}."),
    Kind("send_mail", "Sends an email.", {"to": ("string", "Who gets it", _PEOPLE), "subject": ("string", "Subject line", _of("Meeting notes", "Invoice", "Holiday plans", "Welcome", "Agenda"))},
         ["Send {to} an email with the subject {subject}.", "email {to}, subject: {subject}", "Write to {to} about {subject}."],
         lambda c, v: {"status": c.choice(["sent", "queued"])}, "The email to {to} is {status}."),
    Kind("convert_currency", "Converts an amount of money.", {"amount": ("number", "How much", _whole(5, 5000)), "source": ("string", "Currency code", _CURRENCIES), "target": ("string", "Currency code", _CURRENCIES)},
         ["How much is {amount} {source} in {target}?", "Convert {amount} {source} to {target}.", "change {amount} {source} into {target}"],
         lambda c, v: {"amount_out": round(c.uniform(1, 9000), 2)}, "{amount} {source} are {amount_out} {target}."),
    Kind("book_table", "Reserves a table at a restaurant.", {"restaurant": ("string", "Name of the restaurant", _of("Luigi's", "Sakura", "Casa Verde", "The Anchor", "Blue Door")), "people": ("integer", "Number of guests", _whole(1, 12)), "time": ("string", "Time as HH:MM", _of("18:00", "19:30", "20:15", "12:00"))},
         ["Book a table for {people} at {restaurant} at {time}.", "reserve {restaurant} for {people} people, {time}", "I want to eat at {restaurant} with {people} guests at {time}."],
         lambda c, v: {"code": f"R{c.randrange(1000, 9999)}"}, "Your table at {restaurant} is booked, code {code}."),
    Kind("find_book", "Looks for a book in the library.", {"title": ("string", "Title of the book", _BOOKS), "author": ("string", "Author, if known", _PEOPLE)},
         ["Do you have {title}?", "Is the book {title} there?", "find the book {title} by {author}", "I am looking for {title} by {author}."],
         lambda c, v: {"shelf": f"{c.choice('ABCDEFG')}{c.randrange(1, 40)}"}, "{title} is on shelf {shelf}.", optional=("author",)),
    Kind("track_parcel", "Where a parcel is.", {"number": ("string", "Tracking number", lambda c: f"{c.choice(['PX', 'DE', 'RR'])}{c.randrange(10**5, 10**6)}")},
         ["Where is my parcel {number}?", "track {number}", "Has the package {number} arrived?"],
         lambda c, v: {"place": _CITIES(c), "eta": _DAYS(c)}, "Your parcel is in {place} and arrives on {eta}."),
    Kind("translate_word", "Translates one word.", {"word": ("string", "The word", _of("house", "bread", "river", "moon", "friend", "window")), "language": ("string", "Target language", _of("German", "Spanish", "French", "Italian"))},
         ["How do you say {word} in {language}?", "Translate {word} into {language}.", "{word} in {language}?"],
         lambda c, v: {"translation": c.choice(["Haus", "pan", "lune", "amico", "ventana", "Fluss", "maison", "pane"])}, "{word} in {language} is {translation}."),
    Kind("flight_status", "State of a flight.", {"flight": ("string", "Flight number", lambda c: f"{c.choice(['LH', 'BA', 'UA', 'AF'])}{c.randrange(100, 999)}"), "day": ("string", "Date as YYYY-MM-DD", _DAYS)},
         ["Is flight {flight} on {day} on time?", "status of {flight} on {day}", "Is {flight} late on {day}?"],
         lambda c, v: {"status": c.choice(["on time", "delayed by 40 minutes", "cancelled", "boarding"])}, "Flight {flight} is {status}."),
    Kind("create_note", "Saves a note.", {"title": ("string", "Title", _of("Ideas", "Groceries", "Garden", "Car")), "text": ("string", "What it says", _of("call the plumber", "buy new tires", "plant tulips", "ask about the rent"))},
         ["Make a note called {title}: {text}", "note under {title} that I have to {text}", "Save \"{text}\" as a note with the title {title}."],
         lambda c, v: {"id": c.randrange(10, 999)}, "Saved as note {id}."),
    Kind("population", "Number of people who live somewhere.", {"place": ("string", "City or country", _CITIES), "year": ("integer", "Year, if not now", _whole(1950, 2024))},
         ["How many people live in {place}?", "population of {place}", "How many people lived in {place} in {year}?"],
         lambda c, v: {"people": c.randrange(10**5, 10**7)}, "{people} people live there.", optional=("year",)),
    Kind("start_playlist", "Plays a playlist.", {"playlist": ("string", "Name of the playlist", _of("Morning", "Focus", "Road trip", "Dinner")), "shuffle": ("boolean", "Whether in random order", _of(True))},
         ["Play my {playlist} playlist.", "start the playlist {playlist}"],
         lambda c, v: {"songs": c.randrange(5, 90)}, "Playing {playlist}, {songs} songs.", optional=("shuffle",)),
    Kind("route_length", "Distance by car.", {"start": ("string", "Where it starts", _CITIES), "goal": ("string", "Where it ends", _CITIES)},
         ["How far is it from {start} to {goal}?", "distance between {start} and {goal}", "How long is the drive from {start} to {goal}?"],
         lambda c, v: {"km": c.randrange(20, 4000)}, "It is {km} km from {start} to {goal}."),
    Kind("employee_phone", "Phone number of a colleague.", {"name": ("string", "Full name", _PEOPLE)},
         ["What is the phone number of {name}?", "how can I call {name}", "{name}'s number?"],
         lambda c, v: {"phone": f"+{c.randrange(1, 99)} {c.randrange(100, 999)} {c.randrange(1000, 9999)}"}, "The number of {name} is {phone}."),
    Kind("add_event", "Puts an event into the calendar.", {"title": ("string", "What it is", _of("Dentist", "Yoga", "Team lunch", "School play")), "day": ("string", "Date as YYYY-MM-DD", _DAYS), "minutes": ("integer", "How long", _whole(15, 120))},
         ["Put {title} into my calendar on {day}.", "add {title} on {day} for {minutes} minutes", "Schedule {title}, {day}, {minutes} minutes."],
         lambda c, v: {"status": c.choice(["added", "saved", "in your calendar"])}, "{title} on {day} is {status}.", optional=("minutes",)),
    Kind("recipe_for", "Finds a recipe.", {"dish": ("string", "Name of the dish", _of("risotto", "pancakes", "curry", "goulash", "ramen")), "servings": ("integer", "For how many", _whole(1, 10))},
         ["How do I cook {dish} for {servings}?", "recipe for {dish} for {servings} people", "Find me a {dish} recipe."],
         lambda c, v: {"minutes": c.randrange(10, 120)}, "I found a recipe for {dish}; it takes {minutes} minutes.", optional=("servings",)),
    Kind("stock_level", "How many pieces of an article are in the warehouse.", {"article": ("string", "Article number", lambda c: f"{c.choice('KLMN')}-{c.randrange(100, 999)}")},
         ["How many pieces of {article} do we have?", "stock of {article}", "Is article {article} in stock?"],
         lambda c, v: {"pieces": c.randrange(0, 5000)}, "There are {pieces} pieces of {article}."),
    Kind("user_age", "Age of a registered user.", {"user_id": ("integer", "The user's id", _whole(1, 99999))},
         ["How old is user {user_id}?", "age of the user with id {user_id}", "Look up how old user number {user_id} is."],
         lambda c, v: {"age": c.randrange(18, 95)}, "User {user_id} is {age} years old."),
    Kind("random_number", "A random whole number.", {"low": ("integer", "Smallest", _whole(0, 10)), "high": ("integer", "Largest", _whole(11, 1000))},
         ["Give me a random number between {low} and {high}.", "pick a number from {low} to {high}", "Roll something between {low} and {high}."],
         lambda c, v: {"number": c.randrange(0, 1000)}, "{number}"),
    Kind("word_count", "Counts the words of a text.", {"text": ("string", "The text", _of("the quick brown fox", "to be or not to be", "hello world", "all is well that ends well"))},
         ["How many words has \"{text}\"?", "count the words in: {text}", "Word count of '{text}'?"],
         lambda c, v: {"words": len(v["text"].split())}, "It has {words} words."),
]
