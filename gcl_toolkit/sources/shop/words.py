"""The vocabulary of the shop: what a product can be, how titles and queries name it, what an occasion asks for."""

from __future__ import annotations

from typing import NamedTuple

Names = dict[str, tuple[str, ...]]
"""Value -> its names, the plain one first."""


class Word(NamedTuple):
    """A category: the nouns that name it, its group and the materials that it is made of."""

    nouns: tuple[str, ...]
    group: str
    materials: tuple[str, ...]


_CLAY = ("ceramic", "porcelain", "stoneware")
_CLOTH = ("cotton", "linen", "wool")
_HIDE = ("leather", "canvas", "suede")
_HARD = ("wooden", "metal", "bamboo")

CATEGORIES = {
    "mug": Word(("mug", "coffee cup", "cup"), "kitchen", _CLAY),
    "teapot": Word(("teapot", "tea pot", "tea kettle"), "kitchen", _CLAY),
    "bottle": Word(("bottle", "water bottle", "flask"), "kitchen", ("steel", "glass", "aluminium")),
    "plate": Word(("plate", "dinner plate", "dish"), "kitchen", _CLAY),
    "t-shirt": Word(("t-shirt", "tee", "short sleeve top"), "clothing", _CLOTH),
    "dress": Word(("dress", "gown", "frock"), "clothing", ("cotton", "linen", "silk")),
    "sweater": Word(("sweater", "jumper", "pullover"), "clothing", ("wool", "cotton", "cashmere")),
    "scarf": Word(("scarf", "shawl", "neck warmer"), "clothing", ("wool", "silk", "cashmere")),
    "socks": Word(("socks", "pair of socks", "crew socks"), "clothing", ("cotton", "wool", "bamboo")),
    "cap": Word(("cap", "baseball cap", "hat"), "clothing", ("cotton", "wool", "canvas")),
    "sneakers": Word(("sneakers", "trainers", "running shoes"), "footwear", _HIDE),
    "boots": Word(("boots", "ankle boots", "winter boots"), "footwear", ("leather", "rubber", "suede")),
    "backpack": Word(("backpack", "rucksack", "daypack"), "bags", _HIDE),
    "handbag": Word(("handbag", "purse", "shoulder bag"), "bags", _HIDE),
    "suitcase": Word(("suitcase", "trolley case", "cabin case"), "bags", ("aluminium", "leather", "canvas")),
    "chair": Word(("chair", "dining chair", "seat"), "furniture", _HARD),
    "sofa": Word(("sofa", "couch", "settee"), "furniture", ("velvet", "linen", "leather")),
    "lamp": Word(("lamp", "table lamp", "reading lamp"), "furniture", ("linen", "metal", "wooden")),
    "cushion": Word(("cushion", "throw pillow", "pillow"), "decoration", ("velvet", "linen", "cotton")),
    "rug": Word(("rug", "carpet", "floor mat"), "decoration", ("wool", "cotton", "jute")),
    "clock": Word(("clock", "wall clock", "timepiece"), "decoration", _HARD),
    "vase": Word(("vase", "flower vase", "urn"), "decoration", ("ceramic", "glass", "porcelain")),
    "plant pot": Word(("plant pot", "planter", "flowerpot"), "decoration", ("ceramic", "terracotta", "stoneware")),
    "candle": Word(("candle", "scented candle", "candle jar"), "decoration", ("glass", "soy wax", "ceramic")),
    "headphones": Word(("headphones", "headset", "over-ear phones"), "leisure", ("metal", "leather", "aluminium")),
    "guitar": Word(("guitar", "acoustic guitar", "six-string"), "leisure", ("mahogany", "maple", "spruce")),
    "notebook": Word(("notebook", "journal", "diary"), "leisure", ("leather", "paper", "linen")),
    "watch": Word(("watch", "wristwatch", "wrist watch"), "accessories", ("steel", "leather", "silicone")),
    "sunglasses": Word(("sunglasses", "shades", "sun glasses"), "accessories", ("acetate", "metal", "bamboo")),
    "umbrella": Word(("umbrella", "brolly", "parasol"), "accessories", ("nylon", "cotton", "bamboo")),
}

GROUPS = {
    "kitchen": ("kitchenware", "tableware", "crockery"),
    "clothing": ("clothes", "clothing", "outfit"),
    "footwear": ("footwear", "shoes"),
    "bags": ("bag", "luggage"),
    "furniture": ("furniture", "furnishings"),
    "decoration": ("home decor", "decoration", "room accent"),
    "leisure": ("hobby gear", "leisure item"),
    "accessories": ("accessory", "accessories"),
}

# -- seen in the picture -----------------------------------------------------------------------------------------------

COLOURS: Names = {
    "red": ("red", "crimson", "scarlet"),
    "orange": ("orange", "tangerine"),
    "yellow": ("yellow", "mustard", "lemon"),
    "green": ("green", "emerald", "forest green"),
    "mint": ("mint", "pistachio"),
    "teal": ("teal", "turquoise"),
    "sky": ("sky blue", "light blue"),
    "navy": ("navy", "dark blue", "indigo"),
    "purple": ("purple", "violet", "plum"),
    "pink": ("pink", "rose", "blush"),
    "brown": ("brown", "chocolate", "tan"),
    "beige": ("beige", "sand", "cream"),
    "grey": ("grey", "silver grey"),
    "black": ("black", "jet black"),
    "white": ("white", "snow white", "ivory"),
}
PATTERNS: Names = {
    "solid": ("solid", "plain"),
    "striped": ("striped", "stripy"),
    "dotted": ("dotted", "polka dot", "spotted"),
    "checked": ("checked", "gingham", "plaid"),
    "zigzag": ("zigzag", "chevron"),
    "floral": ("floral", "flowery", "flower print"),
    "starry": ("starry", "star print"),
    "two-tone": ("two-tone", "colour block"),
}
SIZES: Names = {
    "small": ("small", "mini", "compact"),
    "medium": ("medium", "regular"),
    "large": ("large", "big", "oversized"),
}
BACKGROUNDS = ("white", "grey", "cream", "blush", "sky", "mint", "slate", "table")
"""The scene of the photograph; no title and no query names it."""

MOODS = {
    "pastel": ("mint", "sky", "pink", "beige"),
    "dark": ("navy", "black", "brown"),
    "bright": ("red", "orange", "yellow", "teal"),
    "earthy": ("brown", "beige", "green"),
    "neutral": ("grey", "beige", "white", "black"),
    "blue": ("sky", "navy"),
}
"""Words of queries alone that accept several colours."""

# -- read in the title -------------------------------------------------------------------------------------------------

MATERIALS: Names = {m: (m,) for m in sorted({m for word in CATEGORIES.values() for m in word.materials})}
STYLES: Names = {
    "vintage": ("vintage", "retro"),
    "modern": ("modern", "contemporary"),
    "rustic": ("rustic", "country style"),
    "minimalist": ("minimalist", "pared-back"),
    "bohemian": ("bohemian", "boho"),
    "classic": ("classic", "timeless"),
    "sporty": ("sporty", "athletic"),
    "elegant": ("elegant", "chic"),
}
BRANDS: Names = {
    name: (name,)
    for name in (
        *("Nordhem", "Tessaro", "Oakwell", "Luminara", "Kestrane", "Marivelle", "Bruncott", "Solvane"),
        *("Penhallow", "Zephyra", "Caldermoor", "Vintrel", "Ostara", "Fennimore", "Quillon", "Harrowby"),
        *("Mirabeck", "Tolvanen", "Ravenna Row", "Ashgrove", "Duskfield", "Elmira", "Novalune", "Pippinly"),
    )
}
FILLERS = (
    *("new", "bestseller", "gift idea", "2-day delivery", "limited edition", "free returns", "top rated"),
    *("great value", "new season", "must have", "on sale", "for him and her", "handpicked", "premium quality"),
)

# -- asked by queries --------------------------------------------------------------------------------------------------

OCCASIONS = {
    "gift for coffee lovers": ("mug", "bottle"),
    "tea party essentials": ("teapot", "mug", "plate"),
    "present for a tea drinker": ("teapot", "mug"),
    "housewarming gift": ("vase", "plant pot", "candle", "cushion", "lamp", "clock"),
    "cosy reading corner": ("lamp", "chair", "cushion", "rug"),
    "living room makeover": ("sofa", "rug", "cushion", "lamp", "vase"),
    "bedroom decoration": ("lamp", "cushion", "candle", "rug", "clock"),
    "first apartment essentials": ("chair", "lamp", "plate", "mug", "clock", "rug"),
    "outfit for a rainy day": ("umbrella", "boots"),
    "winter walk outfit": ("scarf", "boots", "sweater", "socks"),
    "beach holiday essentials": ("sunglasses", "cap", "bottle", "t-shirt"),
    "weekend trip gear": ("suitcase", "backpack", "bottle", "headphones"),
    "business travel kit": ("suitcase", "watch", "notebook", "headphones"),
    "office bag": ("backpack", "handbag"),
    "back to school supplies": ("backpack", "notebook", "sneakers", "bottle"),
    "gym gear": ("bottle", "sneakers", "t-shirt", "headphones", "socks"),
    "wedding guest outfit": ("dress", "handbag", "watch"),
    "garden party outfit": ("dress", "sunglasses", "handbag", "cap"),
    "gift for music fans": ("guitar", "headphones"),
    "desk setup": ("lamp", "notebook", "headphones", "clock", "plant pot"),
    "stocking filler": ("socks", "candle", "notebook", "mug", "scarf"),
    "gift for plant parents": ("plant pot", "vase"),
    "festival outfit": ("sunglasses", "boots", "cap", "t-shirt", "backpack"),
    "romantic dinner table": ("plate", "candle", "vase"),
}
"""What people shop for -> the categories that serve it (all equally)."""
