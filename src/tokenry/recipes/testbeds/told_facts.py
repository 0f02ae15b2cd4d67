"""Short prompts with a known answer, for any language model: facts in prose with a question about one of them, and sums in words.

    Clara moved to Lisbon in the spring, because she wanted to live near the sea. …         Clara moved to         Lisbon
    In the old basket there are 3 plums, … Later somebody puts 4 more of them into it.      Altogether:            7

What is shortened is the context; the question stays whole.

Source: the testbed is ours, after the small-scale check of prompt compression by self-information.
"""

from dataclasses import dataclass
from random import Random

PEOPLE = (
    "Clara",
    "Martin",
    "Olga",
    "Peter",
    "Sofia",
    "Hugo",
    "Irene",
    "Victor",
    "Nora",
    "Oscar",
    "Alice",
    "Simon",
)
_FACTS = (
    ("{who} moved to {what} in the spring, because it was time for something new.", "{who} moved to", ("Lisbon", "Oslo", "Madrid", "Vienna", "Dublin", "Prague", "Toronto", "Berlin")),
    ("After many years at school, {who} now works as a {what} and likes it very much.", "{who} works as a", ("carpenter", "nurse", "lawyer", "baker", "teacher", "pilot", "farmer", "dentist")),
    ("For the last birthday, the friends of {who} had the idea to give a {what} as a present.", "The friends gave {who} a", ("bicycle", "violin", "camera", "lamp", "watch", "guitar", "tent", "kite")),
    ("If there is any choice at all, {who} always takes {what} for dessert after dinner.", "For dessert, {who} takes", ("mango", "cake", "cheese", "melon", "yogurt", "pudding", "honey", "cherries")),
    ("It is well known that {who} has a {what} at home, which sleeps for most of the day.", "At home, {who} has a", ("dog", "cat", "parrot", "rabbit", "turtle", "hamster", "lizard", "goat")),
)  # fmt: skip
_SUMS = (
    "In the old basket on the table there are {a} {what}, and nobody has touched them so far. Later that day somebody comes and puts {b} more of them into it.",
    "{who} bought {a} {what} at the little shop on the corner, which was open for once. On the way home there was a market, where {who} bought {b} more.",
    "On Monday {who} found {a} {what} in the garden behind the house, much to the joy of all. On Tuesday, when it rained, there were {b} more of them.",
)  # fmt: skip
_THINGS = ("plums", "pens", "coins", "shells", "stamps", "apples", "books", "keys")


@dataclass(frozen=True)
class ToldFact:
    """A context, the question after it, and the answer."""

    context: str
    question: str
    answer: str


def draw_facts(number: int, seed: int, facts: int = 4) -> list[ToldFact]:
    """Draw contexts of several facts about different people, and ask for one of them."""
    draw, asked = Random(seed), []
    for _ in range(number):
        people, kinds = draw.sample(PEOPLE, facts), draw.sample(_FACTS, facts)
        told = [
            (sentence.format(who=who, what=(what := draw.choice(values))), question.format(who=who), what)
            for who, (sentence, question, values) in zip(people, kinds, strict=True)
        ]
        _, question, answer = draw.choice(told)
        asked.append(ToldFact(" ".join(sentence for sentence, _, _ in told), f"\n{question}", f" {answer}"))
    return asked


def draw_sums(number: int, seed: int) -> list[ToldFact]:
    """Draw sums of two numbers below ten, told in words; two others stand before each with their answers."""
    draw, asked = Random(seed), []
    for _ in range(number):
        stories, sums = [], []
        for sentence in draw.sample(_SUMS, len(_SUMS)):
            a, b = draw.randint(2, 9), draw.randint(2, 9)
            stories.append(sentence.format(a=a, b=b, who=draw.choice(PEOPLE), what=draw.choice(_THINGS)))
            sums.append(a + b)
        solved = [f"{story}\nAltogether: {total}\n\n" for story, total in zip(stories, sums, strict=True)]
        asked.append(ToldFact("".join([*solved[:-1], stories[-1]]), "\nAltogether:", f" {sums[-1]}"))
    return asked
