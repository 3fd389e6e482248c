"""Tells stories: an endless, seeded supply of small folk tales in plain English, to train and to measure the demo model on.

A story follows one of three plots (a quest, a chain of swaps, a stranger in the storm) and is about one page long. Choices are not uniform: what is
chosen depends on what it is about (a fox has its own habits, so has every place and trade), with Zipf weights. Real text is like that, and it
matters here: a text of evenly drawn words has no best next word, and a model trained on it no clear margins.

    text = tell(7)                      # the same text for the same number, on every machine
    for text in tales(100, first=5000): ...
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import story_world as world

T = TypeVar("T")
MOST_STOPS = 4
FEWEST_STOPS = 3
FEWEST_SWAPS = 5
MOST_SWAPS = 7
DREAM_CHANCE = 0.4
SENTENCE_END = re.compile(r"""(?:(?<=[.?!])|(?<=[.?!]"))[ \n](?=["A-Z])""")
SIGHTS_A_STOP = 2


def tell(number: int) -> str:
    """Return story `number`: paragraphs joined by newlines."""
    teller = Teller(random.Random(number))
    plot = PLOTS[teller.pick(tuple(PLOTS), "plot")]
    return "\n".join(" ".join(paragraph) for paragraph in plot(teller))


def tales(count: int, first: int = 0) -> Iterator[str]:
    """Yield the stories `first` to `first + count - 1`."""
    for number in range(first, first + count):
        yield tell(number)


def sentences(story: str) -> list[str]:
    """Return the sentences of a story, with the words around direct speech left in its sentence."""
    return SENTENCE_END.split(story)


@dataclass(frozen=True)
class Hero:
    """Whom the story is about, with the pronouns for `str.format`."""

    name: str
    pronouns: tuple[str, str, str]
    trade: world.Trade

    def slots(self) -> dict[str, str]:
        """Return the template slots the hero fills."""
        he, him, his = self.pronouns
        return {
            "hero": self.name, "he": he, "him": him, "his": his, "He": he.capitalize(), "His": his.capitalize(),
            "trade": self.trade.name, "tool": self.trade.tool, "home": self.trade.home,
        }  # fmt: skip


class Teller:
    """One story's random choices and what they have settled so far."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.used: set[object] = set()
        village, site = self.pick(world.VILLAGES, "village")
        trade = self.pick(world.TRADES, "trade", village)
        woman = bool(self.pick((True, False), "woman", trade.name))
        name = self.pick(world.SHE if woman else world.HE, "name", trade.name)
        self.hero = Hero(name, ("she", "her", "her") if woman else ("he", "him", "his"), trade)
        self.slots = {**self.hero.slots(), "village": village, "site": site}

    def pick(self, options: Sequence[T], *context: str) -> T:
        """Draw one of `options`; `context` decides which of them are the likely ones (Zipf weights over an order of its own)."""
        order = sorted(options, key=lambda option: zlib.crc32("|".join((*context, str(option))).encode()))
        weights = [1 / (rank + 1) for rank in range(len(order))]
        return self.chance.choices(order, weights)[0]

    def pick_new(self, options: Sequence[T], *context: str) -> T:
        """Draw one of `options` that this story has not used yet (any of them, once all are used)."""
        fresh = [option for option in options if option not in self.used]
        chosen = self.pick(fresh or options, *context)
        self.used.add(chosen)
        return chosen

    def say(self, templates: Sequence[str], *context: str, **slots: str) -> str:
        """Draw a template, a new one if there is one, and fill its slots; the first letter becomes a capital."""
        text = self.pick_new(templates, *context).format(**self.slots, **slots)
        first = 1 if text.startswith('"') else 0
        return text[:first] + text[first : first + 1].upper() + text[first + 1 :]


Paragraph = list[str]
Plot = Callable[[Teller], Iterator[Paragraph]]


def article(noun: str) -> str:
    """Return `noun` with "a" or "an" before it."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def opening(teller: Teller) -> Paragraph:
    """Introduce the hero and the village."""
    trade = teller.hero.trade
    trait = teller.pick(world.TRAITS, "trait", trade.name)
    relative = teller.pick(world.RELATIVES, "relative", teller.hero.name)
    first = teller.say(
        (
            "Once upon a time there lived {a_trait} {trade} named {hero} in {village}, {site}.",
            "In {village}, {site}, there was once {a_trait} {trade} called {hero}.",
            "Long ago {a_trait} {trade} lived in {village}, {site}, and the name of this {trade} was {hero}.",
            "There was once {a_trait} {trade} in {village}, {site}. Everybody there knew {hero}.",
        ),
        "opening", a_trait=article(trait),
    )  # fmt: skip
    second = teller.say(
        (
            "{hero} lived {home}, together with {relative}.",
            "{He} had a place of {his} own, {home}, and shared it with {relative}.",
            "{hero} and {relative} lived {home} and wanted for nothing.",
        ),
        "household", trade.name, relative=relative,
    )  # fmt: skip
    third = teller.say(
        ("Every morning {he} {routine}.", "Day after day {he} {routine}.", "Whatever the weather, every morning {he} {routine}."),
        "routine", trade.name, routine=trade.routine,
    )  # fmt: skip
    return [first, second, third]


def bad_news(teller: Teller, trouble: world.Trouble) -> Paragraph:
    """Say what went wrong at home and what would mend it."""
    elder = teller.pick(world.ELDERS, "elder", trouble.treasure)
    season = teller.pick(world.SEASONS, "season", trouble.treasure)
    return [
        teller.say(("One {season} {what}.", "Then, one {season}, {what}.", "But one {season} {what}."), "trouble", trouble.what, season=season, what=trouble.what),
        trouble.worry,
        teller.say(
            (
                '"Only {treasure} can help us now," said {elder}.',
                '"There is only one cure," said {elder}, "and that is {treasure}."',
                '{elder} shook a grey head and said, "We need {treasure}, and nobody has ever brought it home."',
                '"My grandfather told me of {treasure}," said {elder}. "With it all would be well again."',
            ),
            "cure", elder, elder=elder, treasure=trouble.treasure,
        ),
        teller.say(
            (
                "The others looked at their shoes.",
                "Nobody wanted to go.",
                "The strong men suddenly remembered their work.",
                "It became so quiet that one could hear the mice.",
            ),
            "silence", elder,
        ),
        teller.say(('"Then I will go," said {hero}.', '"I am not afraid," said {hero}, and that was almost true.', '"Somebody has to do it," said {hero}.'), "offer", teller.hero.name),
    ]  # fmt: skip


def departure(teller: Teller) -> Paragraph:
    """Pack and leave."""
    trade = teller.hero.trade.name
    first, second = teller.pick_new(world.FOODS, "food", trade), teller.pick_new(world.FOODS, "food", trade)
    farewell = teller.pick(world.FAREWELLS, "farewell", teller.hero.name)
    when = teller.pick(world.SETTING_OUT, "when", teller.slots["village"])
    packing = teller.say(
        (
            "{He} packed {first}, {second} and {tool}, {farewell}, and set out {when}.",
            "So {he} took {first} and {second}, put {tool} on top, {farewell}, and left {village} {when}.",
            "Into the bag went {first}, {second} and last of all {tool}. Then {hero} {farewell} and set out {when}.",
        ),
        "packing", trade, first=first, second=second, farewell=farewell, when=when,
    )  # fmt: skip
    return [packing]


ARRIVALS = (
    ("By noon {he} came to {place}.", "After an hour the road led to {place}.", "The first thing on the way was {place}.", "Before the sun was high, {hero} came to {place}."),
    ("On the second day {he} came to {place}.", "The next evening the road ended at {place}.", "Two days later {hero} came to {place}.", "The second morning brought {him} to {place}."),
    ("On the third day {he} reached {place}.", "A week later {hero} came to {place}.", "After that there was nothing but road, until {he} came to {place}.", "The third evening {he} saw {place} in the distance."),
    ("When the moon was full, {he} came to {place}.", "At the end of the month {hero} stood before {place}.", "The last part of the way led through {place}.", "Many days later, tired and thin, {hero} came to {place}."),
)  # fmt: skip

NIGHTS = (
    "That night {he} slept {bed}.",
    "{hero} slept {bed} and dreamed of home.",
    "When it was dark, {he} lay down {bed} and listened to the night.",
    "{He} was so tired that {he} slept {bed} as well as in a king's bed.",
)

DREAMS = (
    "In a dream {he} saw {treasure}, shining under water, and could not reach it.",
    "{He} dreamed that all the windows of {village} were lit.",
    'In the dream a voice said, "Turn left," but when {he} woke, {he} had forgotten where.',
    "{He} did not dream at all, and that was the best thing about it.",
)


def stop(teller: Teller, index: int, treasure: str) -> Iterator[Paragraph]:
    """One stop on the road, the `index`-th: a place, and either a meeting or a night."""
    place = teller.pick_new(world.PLACES, "place", str(index), teller.hero.trade.name)
    sights = [teller.pick_new(place.sight, "sight", place.name) for _ in range(SIGHTS_A_STOP)]
    arrival = teller.say(ARRIVALS[index], "arrival", place.name, place=place.name)
    yield [arrival, sights[0], place.hardship if index % 2 else sights[1]]
    creature = teller.pick_new(world.CREATURES, "creature", place.name)
    yield meeting(teller, creature, treasure)
    yield help_and_gift(teller, creature)
    teller.slots["gift_use"] = creature.use.format(**teller.slots)
    teller.slots["last_gift"] = creature.gift
    night = [teller.say(NIGHTS, "night", place.name, bed=place.bed)]
    if teller.chance.random() < DREAM_CHANCE:
        night.append(teller.say(DREAMS, "dream", place.name, treasure=treasure))
    yield night


def meeting(teller: Teller, creature: world.Creature, treasure: str) -> Paragraph:
    """See somebody, and talk."""
    return [
        teller.say(
            ("There was {look}, {sat}.", "Suddenly {he} saw {look}, {sat}.", "And who was there, {sat}? It was {look}.", "Not far away {hero} noticed {look}, {sat}."),
            "sees", creature.name, look=creature.look, sat=creature.sat,
        ),
        teller.say(
            (
                '"Where are you going, {trade}?" asked the {creature} {voice}.',
                '"Good day, {hero}," said the {creature} {voice}, though they had never met.',
                '"You are a long way from {village}," said the {creature} {voice}.',
                '"Nobody comes here without a reason," said the {creature} {voice}.',
            ),
            "greets", creature.name, creature=creature.name, voice=creature.voice,
        ),
        teller.say(
            (
                '"I am looking for {treasure}," said {hero}.',
                '"I need {treasure}," answered {hero}, "and I do not know the way."',
                '"They say that {treasure} is somewhere beyond the hills," said {hero}. "But why are you so sad?"',
            ),
            "answers", creature.name, treasure=treasure,
        ),
        teller.say(('"{need}," said the {creature}.', 'The {creature} sighed. "{need}."', '"I would help you gladly," said the {creature}, "but {small_need}."'),
                   "need", creature.name, creature=creature.name, need=creature.need, small_need=lower_first(creature.need)),
    ]  # fmt: skip


def lower_first(text: str) -> str:
    """Return `text` with a small first letter, unless it begins with the word "I"."""
    return text if text.startswith("I ") else text[0].lower() + text[1:]


def help_and_gift(teller: Teller, creature: world.Creature) -> Paragraph:
    """Help, and be thanked."""
    return [
        teller.say(
            (
                "{hero} did not think long. {He} {help}.",
                "{hero} put down the bag, and with a little patience {he} {help}.",
                '"Is that all?" said {hero}, and {he} {help}.',
                "It took until evening, but in the end {he} {help}.",
            ),
            "helps", creature.name, help=creature.help.format(**teller.slots),
        ),
        teller.say(
            (
                "The {creature} was so happy that it was a pleasure to see, and gave {him} {gift}.",
                '"That was well done," said the {creature}, and laid {gift} in {his} hand.',
                '"Nobody was ever so good to me," said the {creature}. "Take {gift}."',
                "For this the {creature} gave {him} {gift}, and {hero} put it carefully away.",
            ),
            "thanks", creature.name, creature=creature.name, gift=creature.gift,
        ),
        f'"{creature.power}," said the {creature.name}.',
        teller.say(
            (
                "Then they said goodbye, and {hero} went on.",
                "Before {hero} could ask anything more, the {creature} was gone.",
                'The {creature} pointed to the east. "Keep the wind on your left," it added.',
                "They shared {his} supper, and parted as friends.",
            ),
            "parting", creature.name, creature=creature.name,
        ),
    ]  # fmt: skip


def treasure_won(teller: Teller, treasure: str) -> Iterator[Paragraph]:
    """Reach the guarded place and use the last gift."""
    place, guard, obstacle = teller.pick(world.GUARDED_PLACES, "goal", treasure)
    yield [
        teller.say(
            ("At last {hero} stood before {place}.", "And then, when {he} had almost lost hope, {he} saw {place}.", "At the end of the road lay {place}."),
            "goal", place, place=place,
        ),
        teller.say(("It was guarded by {guard}, and around it was {obstacle}.", "Around it was {obstacle}, and inside lived {guard}."), "guard", place, guard=guard, obstacle=obstacle),
        teller.say(
            ('"Who is there?" cried a voice.', '"Nobody has come here for a hundred years," said a voice from inside.', '"Go home while you can," said a voice.'),
            "voice", place,
        ),
        teller.say(("Then {hero} remembered {last_gift}.", "{hero} thought of {last_gift}.", "{His} hand closed around {last_gift}."), "remembers", teller.slots["last_gift"]),
        teller.slots["gift_use"],
        teller.say(("There, on a plain wooden table, lay {treasure}.", "And in the last room {he} found {treasure}.", "Behind a curtain of cobwebs {he} found {treasure}."), "finds", treasure, treasure=treasure),
    ]  # fmt: skip


def homecoming(teller: Teller, trouble: world.Trouble) -> Paragraph:
    """Go home, and all is well."""
    return [
        teller.say(
            (
                "The way home is always shorter than the way out, and soon {hero} saw the chimneys of {village}.",
                "{hero} walked day and night, and on the ninth day {he} was home.",
                "Nobody in {village} recognised {him} at first, so brown and thin had {he} become.",
                "The whole of {village} came running when {hero} was seen on the road.",
            ),
            "return", teller.slots["village"],
        ),
        trouble.end,
        teller.say(
            (
                "There was a feast that lasted three days.",
                "They carried {hero} round the square until {he} begged them to stop.",
                '"Well," said {hero}, "tomorrow there is work to do."',
                "{hero} hung up {his} coat and slept for two days.",
            ),
            "feast", teller.hero.name,
        ),
        teller.say(world.MORALS, "moral", trouble.treasure),
    ]  # fmt: skip


def quest(teller: Teller) -> Iterator[Paragraph]:
    """Something is wrong at home, and the cure is far away."""
    trouble = teller.pick(world.TROUBLES, "trouble", teller.slots["village"])
    yield opening(teller)
    yield bad_news(teller, trouble)
    yield departure(teller)
    for index in range(teller.chance.randint(FEWEST_STOPS, MOST_STOPS)):
        yield from stop(teller, index, trouble.treasure)
    yield from treasure_won(teller, trouble.treasure)
    yield homecoming(teller, trouble)


ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh")


def swaps(teller: Teller) -> Iterator[Paragraph]:
    """The hero goes to market and swaps one thing for another, again and again."""
    yield opening(teller)
    goods = teller.pick_new(world.GOODS, "goods", teller.hero.trade.name)
    yield [
        teller.say(("One day there was no money left in the house, only {goods}.", "But business was bad, and in the end {hero} owned nothing but {goods}."), "poor", goods, goods=goods),
        teller.say(('"Take it to the market," said {elder}, "and do not come back with less than you have."', '"Sell it," said {elder}, "but look at every coin twice."'),
                   "advice", goods, elder=teller.pick(world.ELDERS, "elder", goods)),
        *departure(teller),
    ]  # fmt: skip
    for index in range(teller.chance.randint(FEWEST_SWAPS, MOST_SWAPS)):
        new = teller.pick_new(world.GOODS, "goods", goods)
        yield swap(teller, ORDINALS[index], goods, new)
        goods = new
    yield [
        teller.say(
            (
                "So {hero} came home in the evening with {goods} and an empty stomach.",
                "In the evening {hero} stood at the door again with {goods} under one arm.",
            ),
            "home", goods, goods=goods,
        ),
        teller.say(
            (
                '"You have done well," said everybody, for that was exactly what was missing.',
                "At first they laughed, and then they saw that a gold coin was hidden in it.",
                "They put it in the best corner of the house, and people came from three villages to look at it.",
            ),
            "verdict", goods,
        ),
        teller.say(world.MORALS, "moral", goods),
    ]  # fmt: skip


def swap(teller: Teller, ordinal: str, old: str, new: str) -> Paragraph:
    """One swap of the chain."""
    trader, mood = teller.pick_new(world.TRADERS, "trader", old)
    place = teller.pick_new(world.PLACES, "place", trader)
    short = "the " + trader.split(" ", 1)[1].split(" on ")[0].split(" in ")[0].split(" with")[0]
    return [
        teller.say(
            (
                "The {ordinal} person {he} met, near {place}, was {trader}, {mood}.",
                "Near {place} came the {ordinal} meeting: there stood {trader}, {mood}.",
            ),
            "meets", trader, ordinal=ordinal, trader=trader, mood=mood, place=place.name,
        ),
        teller.pick(place.sight, "sight", place.name),
        teller.say(
            (
                '"What have you got there?" asked {short}. "If that is {old}, I will give you {new} for it."',
                '"Give me {old}," said {short}, "and you may have {new}."',
                '"I have always wanted {old}," said {short}. "Would you like {new} instead?"',
            ),
            "offer", trader, short=short, old=old, new=new,
        ),
        teller.say(
            (
                '"Why not?" said {hero}, and they shook hands.',
                "{hero} scratched {his} head, but it seemed a fair price.",
                '"It is lighter to carry," thought {hero}, and so it was done.',
                "{hero} was pleased, and went on with {new}, whistling.",
                '"A bargain is a bargain," said {hero}.',
            ),
            "agrees", new, new=new,
        ),
    ]  # fmt: skip


def stranger(teller: Teller) -> Iterator[Paragraph]:
    """A stranger asks for shelter, and only one door is opened."""
    yield opening(teller)
    look, short = teller.pick(world.STRANGERS, "stranger", teller.slots["village"])
    season = teller.pick(world.SEASONS, "season", look)
    yield [
        teller.say(("One night in {season} {storm}.", "It was late in {season} when {storm}."), "storm", look, season=season, storm=teller.pick(world.STORMS, "storm", season)),
        teller.say(("Along the road came {look}.", "In the middle of it all {look} came to {village}.", "At that hour {look} knocked at the first house."), "comes", look, look=look),
    ]  # fmt: skip
    refusals: Paragraph = []
    for ordinal in ORDINALS[:FEWEST_STOPS]:
        neighbour = teller.pick_new(world.NEIGHBOURS, "neighbour", ordinal)
        refusal = teller.pick_new(world.REFUSALS, "refusal", neighbour)
        refusals.append(f'The {ordinal} door was that of {neighbour}. "{refusal}," said {neighbour}, and the door was shut.')
    yield refusals
    yield [
        teller.say(
            (
                "Only {hero} opened at once.",
                "Then the {short} saw a light, and it was the house of {hero}.",
                "The last house was that of {hero}, and there the door was not even locked.",
            ),
            "opens", short, short=short,
        ),
        teller.say(('"Come in, come in," said {hero}. "There is {food}, and the fire is warm."', '"I have only {food}," said {hero}, "but half of it is yours."'),
                   "welcome", teller.hero.name, food=teller.pick_new(world.FOODS, "food", short)),
        teller.say(("The {short} ate without a word and looked into the fire.", "The {short} laughed and sat down in the best chair.", "The {short} thanked {him} and dried {his} only cloak."), "eats", short, short=short),
    ]  # fmt: skip
    yield from told_tale(teller, short)
    yield stranger_leaves(teller, short)


def told_tale(teller: Teller, short: str) -> Iterator[Paragraph]:
    """The stranger tells of a journey: places and creatures, told in the first person."""
    yield [
        teller.say(
            (
                '"I will pay with a story," said the {short}.',
                '"Listen," said the {short}, "for I have come a long way."',
                "When the plates were empty, the {short} began to speak.",
            ),
            "tells",
            short,
            short=short,
        )
    ]
    for index in range(FEWEST_STOPS):
        place = teller.pick_new(world.PLACES, "place", short, str(index))
        creature = teller.pick_new(world.CREATURES, "creature", place.name)
        yield [
            teller.say(
                (
                    '"In my {ordinal} year on the road I came to {place}.',
                    '"My {ordinal} adventure was in {place}.',
                    '"The {ordinal} time I was lost, I found {place}.',
                ),
                "year", short, ordinal=ORDINALS[index], place=place.name,
            ),
            teller.pick(place.sight, "sight", place.name),
            place.hardship,
            teller.say(("There I met {look}, {sat}.", "And there was {look}, {sat}."), "met", creature.name, look=creature.look, sat=creature.sat),
            teller.say(
                (
                    "It told me a secret, and I gave it half of my bread.",
                    "We played cards until morning, and I lost my left boot.",
                    "I have never been so frightened, and I have never laughed so much.",
                    "We were friends for a summer, and then the road called me.",
                ),
                "friends", creature.name,
            ),
            f'That is how I got {creature.gift}."',
            teller.say(("{hero} put another log on the fire.", '"And then?" asked {hero}.', "Outside the storm was still howling.", "{hero} forgot to close {his} mouth."), "listens", creature.name),
        ]  # fmt: skip


def stranger_leaves(teller: Teller, short: str) -> Paragraph:
    """Morning: the stranger is gone, and something is left behind."""
    creature = teller.pick_new(world.CREATURES, "left", short)
    return [
        teller.say(("In the morning the bed was empty.", "When {hero} woke, the storm was over and the guest was gone.", "At sunrise the {short} stood up and took {his} hand."), "morning", short, short=short),
        teller.say(("On the pillow lay {gift}.", "But {gift} lay on the table, beside the crumbs.", "In the ashes of the fire lay {gift}."), "left", creature.name, gift=creature.gift),
        teller.say(("From then on {hero} never lacked anything.", "After that the soup was never thin again in the house of the {trade}.", "Within a year {hero} was the happiest {trade} in {village}."), "luck", teller.hero.name),
        teller.say(("And the neighbours? They leave their doors open now, in every storm.", "The neighbours kept lamps in their windows for years, but nobody knocked."), "neighbours", short),
        teller.say(world.MORALS, "moral", short),
    ]  # fmt: skip


PLOTS: dict[str, Plot] = {"quest": quest, "stranger": stranger, "swaps": swaps}
