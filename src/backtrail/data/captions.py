"""The captions of `fashion-text`: 10 garments x 8 colours x 2 grounds x 3 wordings = 480, each with its number."""

from dataclasses import dataclass

GARMENTS = ("t-shirt", "pair of trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
COLOURS = {  # RGB; none is a ground's
    "red": (220, 40, 40),
    "orange": (240, 140, 20),
    "yellow": (230, 220, 40),
    "green": (40, 160, 60),
    "cyan": (40, 200, 210),
    "blue": (40, 70, 220),
    "purple": (130, 50, 170),
    "pink": (240, 120, 180),
}
GROUNDS = {"black": 0, "white": 255}
WORDINGS = (
    "a photo of {a} {colour} {garment} on a {ground} background",
    "{a} {colour} {garment} in front of a {ground} wall",
    "{garment}, {colour}, on {ground}",
)
# Each colour once, each with another garment (class: colour): what a model makes of a pair that no training image shows.
HELD_OUT = {1: 0, 4: 1, 7: 2, 0: 3, 3: 4, 6: 5, 9: 6, 2: 7}
PER_GARMENT = len(COLOURS) * len(GROUNDS) * len(WORDINGS)
N_CAPTIONS = len(GARMENTS) * PER_GARMENT


@dataclass(frozen=True)
class Caption:
    """What a caption says: numbers of garment (Fashion-MNIST's class), colour, ground and wording."""

    garment: int
    colour: int
    ground: int
    wording: int

    @staticmethod
    def of(number: int) -> "Caption":
        """The caption of that number, from 0 to 479."""
        rest, wording = divmod(number, len(WORDINGS))
        rest, ground = divmod(rest, len(GROUNDS))
        return Caption(*divmod(rest, len(COLOURS)), ground, wording)

    @property
    def number(self) -> int:
        return ((self.garment * len(COLOURS) + self.colour) * len(GROUNDS) + self.ground) * len(WORDINGS) + self.wording

    @property
    def held_out(self) -> bool:
        """Whether no training image shows its garment in its colour."""
        return HELD_OUT.get(self.garment) == self.colour

    @property
    def text(self) -> str:
        colour, ground = list(COLOURS)[self.colour], list(GROUNDS)[self.ground]
        article = "an" if colour[0] in "aeiou" else "a"
        return WORDINGS[self.wording].format(a=article, colour=colour, garment=GARMENTS[self.garment], ground=ground)


CAPTIONS = tuple(Caption.of(number).text for number in range(N_CAPTIONS))
