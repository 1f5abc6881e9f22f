"""How values are said, and how a call must write them: what calls most often get wrong.

Amounts with separators or in words, percents that a tool wants as a decimal, dates in the format that a description
asks for, currencies by name that are wanted as codes, frequencies as numbers, flags both ways, lists out of a few
values, two lists that must not be mixed up, texts and numbers that must be copied as they are. And above all: an
argument that may be left out is left out, unless the request says something about it.
"""

# Word lists read best as they are written.
# ruff: noqa: E501
# fmt: off

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

Said = tuple[str, Any]
"""(how it is said, the value that is written)."""
Draw = Callable[[random.Random], Said]


@dataclass(frozen=True)
class Argument:
    """One argument of a tool. `asides` are ways to mention an argument that may be left out: there is none where it is
    always said."""

    name: str
    schema: dict[str, Any]
    draw: Draw
    asides: Sequence[str] = ()


@dataclass(frozen=True)
class Form:
    """A made-up tool and ways to ask for it, with an argument's name where its value is said."""

    name: str
    purpose: str
    arguments: Sequence[Argument]
    asks: Sequence[str]

    @property
    def spec(self) -> tuple[str, str, dict[str, Any]]:
        properties = {each.name: each.schema for each in self.arguments}
        needed = [each.name for each in self.arguments if not each.asides]
        return self.name, self.purpose, {"type": "object", "properties": properties, "required": needed}

    def draw(self, chance: random.Random) -> tuple[str, dict[str, Any]]:
        """(request, arguments)."""
        ask = chance.choice(self.asks)
        said, values, asides = {}, {}, []
        for each in self.arguments:
            mentioned = not each.asides or f"{{{each.name}}}" in ask or chance.random() < 0.35
            said[each.name], value = each.draw(chance)
            if mentioned:
                values[each.name] = value
                if each.asides and f"{{{each.name}}}" not in ask:
                    aside = each.asides[not value] if isinstance(value, bool) else chance.choice(each.asides)
                    asides.append(aside.format(said[each.name]))
        return " ".join([ask.format(**said), *asides]), values


# ------------------------------------------------------------------------------------------------------------ values
def _of(*values: Any) -> Draw:
    def draw(chance: random.Random) -> Said:
        value = chance.choice(values)
        return str(value), value
    return draw


def _named(**values: Any) -> Draw:
    def draw(chance: random.Random) -> Said:
        name = chance.choice(list(values))
        return name.replace("_", " "), values[name]
    return draw


def _whole(low: int, high: int) -> Draw:
    def draw(chance: random.Random) -> Said:
        value = chance.randrange(low, high)
        return str(value), value
    return draw


def _amount(chance: random.Random) -> Said:
    """A round amount, as people write large ones."""
    value = chance.randrange(1, 100) * 10 ** chance.choice([2, 3, 3, 4, 5, 6])
    ways = [f"{value:,}", f"{value:,}", str(value)]
    if value >= 10**6 and value % 10**5 == 0:
        ways += [f"{value / 10**6:g} million"] * 2
    elif value >= 1000 and value % 100 == 0:
        ways.append(f"{value / 1000:g} thousand")
    return chance.choice(ways), value


def _share(chance: random.Random) -> Said:
    percent = chance.choice([*range(1, 30), 2.5, 4.5, 7.25, 0.5, 35, 40, 60])
    return chance.choice([f"{percent}%", f"{percent} percent"]), round(percent / 100, 6)


def _percent(chance: random.Random) -> Said:
    percent = chance.choice([*range(1, 30), 2.5, 4.5, 7.25])
    return chance.choice([f"{percent}%", f"{percent} percent"]), percent


def _date(form: str) -> Draw:
    def draw(chance: random.Random) -> Said:
        day = date(2019, 1, 1) + timedelta(days=chance.randrange(3000))
        nth = {1: "st", 2: "nd", 3: "rd"}.get(day.day % 10 if day.day // 10 != 1 else 0, "th")
        ways = [f"{day:%B} {day.day}, {day.year}", f"{day.day} {day:%B} {day.year}", f"{day:%b} {day.day}{nth} {day.year}",
                f"{day.day}{nth} of {day:%B} {day.year}", f"{day:%Y/%m/%d}", f"{day:%b}.{day.day},{day.year}"]
        return chance.choice(ways), day.strftime(form)
    return draw


def _numbers(chance: random.Random) -> Said:
    values = [chance.randrange(1, 100) if chance.random() < 0.5 else round(chance.uniform(1, 30), 1) for _ in range(chance.randrange(2, 6))]
    listed = ", ".join(map(str, values))
    return chance.choice([f"({listed})", f"[{listed}]", listed, ", ".join(map(str, values[:-1])) + f" and {values[-1]}"]), values


def _some(*values: str) -> Draw:
    def draw(chance: random.Random) -> Said:
        chosen = chance.sample(values, chance.randrange(1, min(4, len(values) + 1)))
        return (" and ".join([", ".join(chosen[:-1]), chosen[-1]]) if len(chosen) > 1 else chosen[0]), chosen
    return draw


def _code(chance: random.Random) -> Said:
    value = "".join(chance.choice("0123456789") for _ in range(chance.randrange(4, 11)))
    value = chance.choice(["", "", "AB-", "X", "N."]) + value
    return chance.choice([value, f"'{value}'", f"`{value}`"]), value


def _flag(chance: random.Random) -> Said:
    return "", chance.random() < 0.5


_TITLES = _of("The Long Way Home", "Blue Harbour", "A Quiet Year", "Letters to Nobody", "Salt and Smoke", "Nine Lives", "The Glass Garden", "Mr. Finch", "Rain, Again")
_PEOPLE = _of("Ada Lindqvist", "Mr. Osei", "Dr. Hana Sato", "Jorge", "Beatrix", "Ms. Okafor", "Liam O'Neill", "Prof. Varga")
_MONEY = _named(US_dollars="USD", British_pounds="GBP", euros="EUR", Japanese_yen="JPY", Swiss_francs="CHF", Indian_rupees="INR", Mexican_pesos="MXN", Swedish_kronor="SEK")
_TOWNS = _named(Boston="Boston, MA", Denver="Denver, CO", Seattle="Seattle, WA", Miami="Miami, FL", Chicago="Chicago, IL", Dallas="Dallas, TX", Portland="Portland, OR", Atlanta="Atlanta, GA")
_OFTEN = _named(yearly=1, quarterly=4, monthly=12, weekly=52, daily=365)


def _text(about: str) -> dict[str, Any]:
    return {"type": "string", "description": about}


def _whole_number(about: str) -> dict[str, Any]:
    return {"type": "integer", "description": about}


def _number(about: str) -> dict[str, Any]:
    return {"type": "number", "description": about}


def _list(items: dict[str, Any], about: str) -> dict[str, Any]:
    return {"type": "array", "items": items, "description": about}


FORMS: list[Form] = [
    Form("savings.grow", "What savings grow to.",
         [Argument("deposit", _whole_number("The amount that is deposited."), _amount), Argument("rate", _number("Interest a year in decimal form, for example 0.03."), _share),
          Argument("years", _whole_number("For how many years."), _whole(1, 40)), Argument("credits_per_year", _whole_number("How often interest is credited in a year. Default is 1."), _OFTEN, ["Interest is credited {}.", "It is compounded {}."])],
         ["What do ${deposit} grow to in {years} years at {rate} a year?", "I deposit {deposit} dollars at an interest rate of {rate}. What are they worth after {years} years?", "How much will {deposit} euros be after {years} years with {rate} interest?"]),
    Form("loan_cost", "What a loan costs in all.",
         [Argument("principal", _whole_number("The amount that is borrowed."), _amount), Argument("interest_percent", _number("Interest a year in percent."), _percent),
          Argument("months", _whole_number("How long it runs."), _whole(6, 240)), Argument("fee", _whole_number("A fee that is paid once. Optional; 0 if not given."), _whole(10, 900), ["There is a fee of {} dollars.", "Add a fee of {}."])],
         ["I borrow ${principal} at {interest_percent} for {months} months. What does it cost me?", "Cost of a loan of {principal} over {months} months at {interest_percent}"]),
    Form("company.margin", "The profit margin of a company.",
         [Argument("profit", _whole_number("Profit of the year."), _amount), Argument("revenue", _whole_number("Revenue of the year."), _amount), Argument("taxes_paid", _whole_number("Taxes of the year. Optional."), _amount, ["It paid {} in taxes.", "Taxes were ${}."])],
         ["A company earned ${profit} on a revenue of ${revenue}. What is its margin?", "Work out the margin for revenue {revenue} and profit {profit}.", "With a profit of {profit} dollars and {revenue} dollars of revenue, how large is the margin?"]),
    Form("money.exchange", "Changes money.",
         [Argument("source", _text("Code of the currency that is given."), _MONEY), Argument("target", _text("Code of the currency that is wanted."), _MONEY), Argument("amount", _number("How much of it. Default is 1."), _whole(5, 9000), ["The amount is {}.", "I have {} of them."])],
         ["What is the rate from {source} to {target}?", "I want to change {source} into {target}.", "How many {target} do I get for {amount} {source}?", "Convert {amount} {source} to {target}."]),
    Form("room_finder", "Finds a room in a hotel.",
         [Argument("town", _text("In the form City, State, for example Austin, TX."), _TOWNS), Argument("arrival", _text("Day of arrival, YYYY-MM-DD."), _date("%Y-%m-%d")), Argument("nights", _whole_number("How many nights."), _whole(1, 14)),
          Argument("breakfast", {"type": "boolean", "description": "Whether breakfast is included. Default is false."}, _flag, ["I want breakfast.", "I don't need breakfast."]), Argument("bed", {"type": "string", "enum": ["single", "double", "king"], "description": "Which bed. Default is double."}, _of("single", "double", "king"), ["With a {} bed.", "The bed should be {}."])],
         ["Find a room in {town} from {arrival} for {nights} nights.", "I need a hotel in {town} for {nights} nights, arriving on {arrival}."]),
    Form("archive.lookup", "Looks a document up in the archive.",
         [Argument("number", _text("The document's number."), _code), Argument("place", _text("City where it is kept."), _of("Vienna", "Ghent", "Bergen", "Turin", "New Haven")), Argument("scan", {"type": "boolean", "description": "Return a scan of it. Default is false.", "default": False}, _flag, ["Include the scan.", "Do not return a scan."])],
         ["Find document {number} in {place}.", "Give me what the archive in {place} has under number {number}.", "Look up {number}, kept in {place}."]),
    Form("film.about", "Tells about a film.",
         [Argument("title", _text("Title of the film."), _TITLES), Argument("with_cast", {"type": "boolean", "description": "Whether to list the cast. Default is false."}, _flag, ["List the cast, too.", "Leave out the cast."]), Argument("year", _whole_number("Year of the film, where several have one title. Optional."), _whole(1950, 2025), ["The one of {}.", "I mean the film from {}."])],
         ["What is the film {title} about?", "Tell me about the movie '{title}'", "Give me a summary of \"{title}\"."]),
    Form("team.fixtures", "The next matches of a team.",
         [Argument("team", _text("Name of the team."), _of("River Rovers", "FC Nord", "The Herons", "Union 07", "Lakeside United")), Argument("count", _whole_number("How many matches."), _whole(1, 12)), Argument("league", _text("Name of the league."), _of("Second Division", "Coast League", "National Cup", "Premier Series")), Argument("venue", _text("Only matches in this city. Optional."), _of("Leeds", "Porto", "Graz"), ["Only those in {}.", "I care for matches in {} only."])],
         ["What are the next {count} matches of {team} in the {league}?", "{league}: show me {count} fixtures of {team}."]),
    Form("stats.compare_means", "Whether two samples have the same mean.",
         [Argument("first", _list({"type": "number"}, "Values of the first sample."), _numbers), Argument("second", _list({"type": "number"}, "Values of the second sample."), _numbers), Argument("level", _number("Level of significance. Default is 0.05."), _of(0.01, 0.1, 0.05), ["Use a level of {}.", "The level of significance is {}."])],
         ["Do {first} and {second} have the same mean?", "Compare the sample {first} with the sample {second}.", "Test the first group {first} against the second group {second}."]),
    Form("garden.plants", "Plants that grow somewhere.",
         [Argument("place", _text("Where they shall grow."), _of("balcony", "north wall", "pond", "roof terrace")), Argument("kinds", _list({"type": "string", "enum": ["herb", "shrub", "tree", "flower"]}, "Which kinds. Default is flower."), _some("herb", "shrub", "tree", "flower"), ["Of the kinds {}.", "I think of {}."]), Argument("height", _whole_number("Greatest height in cm. Optional."), _whole(20, 300), ["At most {} cm high.", "Nothing above {} centimeters."])],
         ["What can I plant on my {place}?", "Which plants suit a {place}?"]),
    Form("motion.speed_after", "Speed after a time of acceleration.",
         [Argument("start_speed", _whole_number("Speed at first, in m/s."), _named(rest=0, a_standstill=0)), Argument("acceleration", _number("In m/s^2."), _of(9.8, 2, 3.5, 1.2, 4)), Argument("seconds", _whole_number("How long it accelerates."), _whole(2, 60)), Argument("mass", _number("Mass in kg. Optional."), _whole(1, 50), ["It weighs {} kg.", "Its mass is {} kg."])],
         ["How fast is a cart that starts from {start_speed} and accelerates at {acceleration} m/s^2 for {seconds} seconds?", "From {start_speed}, a ball gains {acceleration} m/s^2 during {seconds} s. What is its speed?"]),
    Form("shape.ring_length", "Length around a ring.",
         [Argument("radius", _whole_number("Radius of the ring."), _whole(1, 90)), Argument("unit", _text("Unit of the radius. Default is 'm'."), _of("inches", "cm", "feet", "mm"), ["The radius is in {}.", "Measured in {}."])],
         ["How long is a ring with a radius of {radius}?", "What is the length around a ring of radius {radius} {unit}?"]),
    Form("contract.draft", "Drafts a contract.",
         [Argument("parties", _list({"type": "string"}, "Names of the parties."), _some("Ada", "Bruno", "Chidi", "Delia", "Emil")), Argument("kind", _text("Kind of contract."), _of("sales contract", "lease of a garage", "service contract", "loan between friends")), Argument("signed_on", _text("Day on which it is signed, in the format DD-MM-YYYY."), _date("%d-%m-%Y"))],
         ["Draft a {kind} between {parties}, to be signed on {signed_on}.", "{parties} need a {kind}. They sign it on {signed_on}."]),
    Form("people.born", "When somebody was born.",
         [Argument("name", _text("Full name, with title."), _PEOPLE), Argument("country", _text("Where to look. Optional, default is everywhere."), _of("Ghana", "Hungary", "Japan", "Peru"), ["Look in {}.", "Somebody from {}."])],
         ["When was {name} born?", "I want to know the birthday of {name}.", "{name}: born when?"]),
    Form("rows.where", "Rows of a table that meet conditions.",
         [Argument("table", _text("Name of the table."), _of("orders", "member", "sensor", "invoice")), Argument("column", _text("Name of a column."), _of("price", "weight", "score", "age")), Argument("operation", {"type": "string", "enum": ["<", ">", "=", ">=", "<="], "description": "How the column is compared."}, _named(greater_than=">", less_than="<", at_least=">=", at_most="<=", equal_to="=")), Argument("value", _text("What it is compared with."), lambda chance: (str(number := chance.randrange(1, 500)), str(number)))],
         ["Which rows of the {table} table have a {column} {operation} {value}?", "From {table}, get all where {column} is {operation} {value}."]),
]
