"""Tables of the three portrait looks: the word of every choice and the parts it stands for.

Parts that are degrading or whose man or woman would be ambiguous are left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass

Parts = Mapping[str, str | float]
# A word and the alternative parts it stands for.
Choices = Mapping[str, tuple[Parts, ...]]


@dataclass(frozen=True)
class Look:
    """The tables of one portrait look.

    `keys` maps a colour's role to the style's option name; `laughing_beards` are drawn with a laughing mouth.
    """

    source: str
    fixed: Parts
    keys: Mapping[str, str]
    hair: Mapping[str, Choices]
    expressions: Choices
    clothes: Mapping[str, Choices]
    beards: Choices
    no_beard: Parts
    glasses: Choices
    no_glasses: Parts
    laughing_beards: tuple[str, ...] = ()


def _variants(option: str, *names: str, **fixed: int) -> tuple[Parts, ...]:
    return tuple({f"{option}Variant": name, **fixed} for name in names)


def _toon_hair(front: str, rear: str = "") -> Parts:
    parts: dict[str, str | float] = {"hairVariant": front, "hairProbability": 100, "rearHairProbability": 0}
    return {**parts, "rearHairVariant": rear, "rearHairProbability": 100} if rear else parts


def _faces(eyes: tuple[str, ...], brows: tuple[str, ...], mouths: tuple[str, ...]) -> tuple[Parts, ...]:
    return tuple(
        {"eyesVariant": eye, "eyebrowsVariant": brow, "mouthVariant": mouth}
        for eye in eyes
        for brow in brows
        for mouth in mouths
    )


def _plain_faces(eyes: tuple[str, ...], mouths: tuple[str, ...]) -> tuple[Parts, ...]:
    return tuple({"eyesVariant": eye, "mouthVariant": mouth} for eye in eyes for mouth in mouths)


_TOON_CLOTHES: Choices = {
    "jacket": _variants("clothes", "openJacket"),
    "sweater": _variants("clothes", "shirt"),
    "t-shirt": _variants("clothes", "tShirt"),
    "turtleneck": _variants("clothes", "turtleNeck"),
}
CARTOON = Look(
    source="toon-head",
    fixed={},
    keys={
        "background": "backgroundColor",
        "clothes": "clothesColor",
        "hair": "hairColor",
        "skin": "skinColor",
    },
    hair={
        "man": {
            "short": (_toon_hair("undercut"),),
            "spiky": (_toon_hair("spiky"),),
            "side-parted": (_toon_hair("sideComed"),),
            "bald": ({"hairProbability": 0, "rearHairProbability": 0},),
        },
        "woman": {
            "long straight": (_toon_hair("sideComed", "longStraight"),),
            "long wavy": (_toon_hair("sideComed", "longWavy"),),
            "shoulder-length": (_toon_hair("sideComed", "shoulderHigh"),),
            "bob": (_toon_hair("sideComed", "neckHigh"),),
            "bun": (_toon_hair("bun"),),
        },
    },
    expressions={
        "smiling": _faces(("happy", "wide"), ("happy",), ("smile",)),
        "laughing": _faces(("bow", "happy"), ("happy", "raised"), ("laugh",)),
        "sad": _faces(("wide", "humble"), ("sad",), ("sad",)),
        "surprised": _faces(("wide",), ("raised",), ("agape",)),
        "angry": _faces(("wide",), ("angry",), ("angry",)),
        "winking": _faces(("wink",), ("happy",), ("smile", "laugh")),
    },
    clothes={"man": _TOON_CLOTHES, "woman": {**_TOON_CLOTHES, "dress": _variants("clothes", "dress")}},
    beards={
        "beard": _variants("beard", "fullBeard", "longBeard", beardProbability=100),
        "moustache": _variants("beard", "moustacheTwirl", beardProbability=100),
    },
    no_beard={"beardProbability": 0},
    glasses={},
    no_glasses={},
)

_FLAT_CLOTHES: Choices = {
    "blazer": _variants("clothes", "blazerAndShirt", "blazerAndSweater"),
    "sweater": _variants("clothes", "collarAndSweater"),
    "hoodie": _variants("clothes", "hoodie"),
    "overalls": _variants("clothes", "overall"),
    "t-shirt": _variants("clothes", "shirtCrewNeck", "shirtScoopNeck", "shirtVNeck"),
}
FLAT = Look(
    source="avataaars",
    fixed={"noseVariant": "default"},
    keys={
        "background": "backgroundColor",
        "clothes": "clothesColor",
        "hair": "hairColor",
        "skin": "skinColor",
        "beard": "facialHairColor",
        "frame": "accessoriesColor",
    },
    hair={
        "man": {
            "short": _variants("top", "shortFlat", "shortRound", "theCaesar", topProbability=100),
            "curly": _variants("top", "shortCurly", topProbability=100),
            "quiff": _variants("top", "shortWaved", "frizzle", topProbability=100),
            "balding": _variants("top", "sides", topProbability=100),
            "bald": ({"topProbability": 0},),
        },
        "woman": {
            "long straight": _variants(
                "top", "straight01", "straight02", "straightAndStrand", topProbability=100
            ),
            "long wavy": _variants("top", "curvy", topProbability=100),
            "shoulder-length": _variants("top", "longButNotTooLong", topProbability=100),
            "bob": _variants("top", "bob", "miaWallace", topProbability=100),
            "bun": _variants("top", "bun", topProbability=100),
            "curly": _variants("top", "curly", topProbability=100),
            "afro": _variants("top", "fro", topProbability=100),
            "dreadlocks": _variants("top", "dreads", topProbability=100),
        },
    },
    expressions={
        "smiling": _faces(("default",), ("default", "defaultNatural"), ("twinkle", "smile")),
        "laughing": _faces(("happy",), ("default", "raisedExcited"), ("smile",)),
        "sad": _faces(("default",), ("sadConcerned", "sadConcernedNatural"), ("sad",)),
        "surprised": _faces(("surprised",), ("raisedExcited", "raisedExcitedNatural"), ("screamOpen",)),
        "angry": _faces(("default",), ("angry", "angryNatural"), ("serious", "grimace")),
        "serious": _faces(("default",), ("flatNatural", "defaultNatural"), ("serious",)),
        "winking": _faces(("wink",), ("default",), ("twinkle", "smile")),
    },
    clothes={"man": _FLAT_CLOTHES, "woman": _FLAT_CLOTHES},
    beards={
        "beard": _variants(
            "facialHair", "beardLight", "beardMajestic", "beardMedium", facialHairProbability=100
        ),
        "moustache": _variants("facialHair", "moustacheFancy", "moustacheMagnum", facialHairProbability=100),
    },
    no_beard={"facialHairProbability": 0},
    glasses={
        "glasses": _variants(
            "accessories", "prescription01", "prescription02", "round", accessoriesProbability=100
        ),
        "sunglasses": _variants("accessories", "sunglasses", "wayfarers", "kurt", accessoriesProbability=100),
    },
    no_glasses={"accessoriesProbability": 0},
)

_MINIMAL_CLOTHES: Choices = {
    "t-shirt": _variants("clothes", "rounded", "squared"),
    "checkered shirt": _variants("clothes", "checkered"),
}
MINIMAL = Look(
    source="personas",
    fixed={"hairProbability": 100, "noseVariant": "smallRound", "scale": 1.15, "translateY": 4},
    keys={
        "background": "backgroundColor",
        "clothes": "clothingColor",
        "hair": "hairColor",
        "skin": "skinColor",
        "beard": "facialHairColor",
    },
    hair={
        "man": {
            "side-parted": _variants("hair", "shortCombover", "shortComboverChops"),
            "quiff": _variants("hair", "fade"),
            "mohawk": _variants("hair", "mohawk"),
            "balding": _variants("hair", "balding"),
            "bald": _variants("hair", "bald"),
        },
        "woman": {
            "long straight": _variants("hair", "extraLong"),
            "shoulder-length": _variants("hair", "long"),
            "bob": _variants("hair", "bobBangs", "bobCut"),
            "bun": _variants("hair", "straightBun", "curlyBun"),
            "pigtails": _variants("hair", "pigtails"),
        },
    },
    expressions={
        "smiling": _plain_faces(("open",), ("smile",)),
        "laughing": _plain_faces(("happy",), ("bigSmile",)),
        "sad": _plain_faces(("open",), ("frown",)),
        "surprised": _plain_faces(("open",), ("surprise",)),
        "winking": _plain_faces(("wink",), ("smile", "smirk")),
    },
    clothes={"man": _MINIMAL_CLOTHES, "woman": _MINIMAL_CLOTHES},
    beards={
        "beard": _variants("facialHair", "beardMustache", "goatee", facialHairProbability=100),
        "moustache": _variants("facialHair", "pyramid", "walrus", facialHairProbability=100),
    },
    no_beard={"facialHairProbability": 0},
    glasses={"glasses": _variants("eyes", "glasses"), "sunglasses": _variants("eyes", "sunglasses")},
    no_glasses={},
    laughing_beards=("beardMustache",),
)

LOOKS: Mapping[str, Look] = {"cartoon": CARTOON, "flat": FLAT, "minimal": MINIMAL}
