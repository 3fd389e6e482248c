"""What the stories of `stories.py` are made of: people, trades, places, creatures and troubles. Data only, written for this repository.

Texts may hold slots in braces; `stories.py` fills them. The hero's are {hero} {he} {him} {his} {He} {His} {trade} {tool} {home}.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Trade:
    """What the hero does for a living."""

    name: str
    home: str  # follows "lived"
    routine: str  # follows "Every morning {he}"
    tool: str  # a noun with its article or possessive


@dataclass(frozen=True)
class Place:
    """Somewhere the road leads through."""

    name: str  # follows "came to"
    sight: tuple[str, ...]  # whole sentences
    hardship: str  # whole sentence
    bed: str  # follows "slept"


@dataclass(frozen=True)
class Creature:
    """Somebody met on the road."""

    name: str  # with "the" in front it is a subject
    look: str  # follows "a" or "an": the first sight
    sat: str  # follows the look: what it was doing
    voice: str  # follows "said the fox": how
    need: str  # direct speech, first person
    help: str  # a past-tense deed of the hero, follows "{he}"
    gift: str  # a noun with its article
    power: str  # direct speech: what the gift does
    use: str  # whole sentence: how the gift helps at the end


@dataclass(frozen=True)
class Trouble:
    """Why the hero has to leave home."""

    what: str  # whole sentence
    worry: str  # whole sentence
    treasure: str  # a noun with its article
    end: str  # whole sentence: how it is mended


SHE = (
    "Mara",
    "Elin",
    "Tilda",
    "Anna",
    "Rosa",
    "Greta",
    "Ida",
    "Nell",
    "Sofia",
    "Wren",
    "Clara",
    "Hanne",
    "Lucy",
    "Odile",
    "Petra",
    "Vera",
    "Juna",
    "Birdie",
)
HE = (
    "Tom",
    "Jonas",
    "Peter",
    "Oskar",
    "Will",
    "Matti",
    "Anders",
    "Hugo",
    "Felix",
    "Robin",
    "Karl",
    "Emil",
    "Ned",
    "Simon",
    "Lukas",
    "Abel",
    "Piet",
    "Samuel",
)

VILLAGES = (
    ("Alderbrook", "where the river bends twice before it finds the sea"),
    ("Greyford", "a village of stone roofs and narrow lanes"),
    ("Low Harbour", "where the boats sleep in the mud when the tide is out"),
    ("Thistledown", "a village so small that one bell could wake it all"),
    ("Northgate", "at the foot of the white mountains"),
    ("Millwater", "where three wheels turned day and night"),
    ("Hollow Hill", "half of it built into the warm side of the hill"),
    ("Saltmarsh", "at the very edge of the land"),
    ("Oakham", "under the oldest trees in the country"),
    ("Fernley", "between the moor and the dark wood"),
    ("Bridge End", "where every traveller had to stop and pay a penny"),
    ("Windle", "high on the downs, where the wind is never still"),
)

TRAITS = (
    "patient",
    "cheerful",
    "stubborn",
    "quiet",
    "clever",
    "careful",
    "poor",
    "brave",
    "curious",
    "proud",
    "gentle",
    "lonely",
    "kind",
    "restless",
)

TRADES = (
    Trade("miller", "in the mill by the stream", "opened the gate and let the water turn the wheel", "a sack of fine white flour"),
    Trade(
        "weaver", "in a house full of wool", "sat down at the loom and threw the shuttle until the light was gone", "a ball of red thread"
    ),
    Trade("fisher", "in a hut on the shingle", "rowed out before dawn and pulled in the heavy nets", "a coil of strong line"),
    Trade("baker", "above the oven, where it was always warm", "lit the fire and kneaded forty loaves", "a honey cake in a cloth"),
    Trade("potter", "beside the clay pit", "turned bowls as thin as eggshell", "a blue cup with a silver rim"),
    Trade("shepherd", "in a hut above the last trees", "counted the sheep out of the fold", "a crook of ash wood"),
    Trade("clockmaker", "over a shop where nothing was ever late", "wound sixty clocks and listened to each of them", "a tiny brass key"),
    Trade("gardener", "behind the castle wall", "watered the beans and spoke to the roses", "a pocket of apple seeds"),
    Trade("smith", "beside the forge", "blew the coals red and made the anvil ring", "a hammer with a short handle"),
    Trade("sailor", "in a room like a ship's cabin", "looked at the sky and said what it would bring", "an old brass compass"),
    Trade(
        "carpenter", "in a house that smelled of pine", "planed long boards until the shavings lay knee deep", "a saw wrapped in oilcloth"
    ),
    Trade("beekeeper", "at the end of the lime avenue", "told the bees the news of the village", "a jar of dark honey"),
    Trade("tailor", "under the eaves of the market hall", "cut coats for people who were richer than kings", "a pair of sharp scissors"),
    Trade("painter", "in a tower with one large window", "mixed blue from stones and yellow from onion skins", "a small box of colours"),
    Trade("cobbler", "in a cellar full of boots", "hammered nails into soles and whistled", "a needle as long as a hand"),
    Trade("lamplighter", "in the gatehouse", "went from lamp to lamp and put out the little flames", "a lantern of green glass"),
    Trade("glassblower", "near the sand hills", "breathed bubbles of light into the world", "a bead of clear glass"),
    Trade(
        "bell ringer", "in the church tower, among the jackdaws", "climbed two hundred steps and pulled the rope", "a little silver bell"
    ),
    Trade("bookbinder", "between walls of books", "sewed pages together and read a little of each", "a map on yellow paper"),
    Trade("cook", "beside the great kitchen chimney", "peeled, stirred, salted and tasted", "a wooden spoon"),
)

RELATIVES = (
    "an old grandmother who knew every song",
    "two noisy brothers",
    "a grey cat with one white paw",
    "a father who had once been a soldier",
    "a little sister who asked questions all day",
    "an aunt who could smell rain",
    "a dog that was afraid of geese",
    "a goat that ate the washing",
    "an uncle who spoke only to his pipe",
    "a mother who sang while she worked",
)

TROUBLES = (
    Trouble(
        "the well in the square ran dry",
        "The buckets came up with nothing but dust.",
        "the blue stone that calls the rain",
        "Water rose in the well, clear and cold, and the children drank first.",
    ),
    Trouble(
        "the great bell lost its voice",
        "It swung in the tower and made no sound at all.",
        "the silver clapper",
        "The bell rang out over the roofs, and the pigeons rose like smoke.",
    ),
    Trouble(
        "the lighthouse went dark",
        "Three ships had already struck the rocks.",
        "a piece of a fallen star",
        "The light swept over the water again, and the ships came home one by one.",
    ),
    Trouble(
        "the winter would not end",
        "The snow lay up to the windows, and the wood was nearly gone.",
        "the golden key of spring",
        "The ice broke with a great sigh, and the first swallow sat on the roof.",
    ),
    Trouble(
        "a deep sleep fell on the children",
        "They breathed softly and could not be woken.",
        "the song of the night bird",
        "One child yawned, then another, and soon the whole street was full of laughter.",
    ),
    Trouble(
        "the bread stopped rising",
        "Every loaf came out of the oven as flat as a plate.",
        "the oldest grain of wheat",
        "The dough rose so high that it lifted the lid from the trough.",
    ),
    Trouble(
        "the colours faded from the world",
        "The roses were grey, and so was the sky.",
        "the feather of the rainbow bird",
        "Red came back first, then yellow, and last of all the deep blue of the evening.",
    ),
    Trouble(
        "the river forgot its way",
        "It wandered over the fields and stood in the kitchens.",
        "the white pebble from the spring",
        "The river remembered, lay down in its bed and sang as before.",
    ),
    Trouble(
        "all the clocks went backwards",
        "People had supper before breakfast, and nobody grew any older.",
        "the missing hour",
        "The clocks stopped, thought for a moment, and then went on as clocks should.",
    ),
    Trouble(
        "the queen forgot how to smile",
        "She sat at the window and looked at the rain.",
        "the mirror of the laughing lake",
        "The queen looked into the mirror, and the corners of her mouth began to tremble.",
    ),
    Trouble(
        "a thick fog came and would not lift",
        "Neighbours walked into each other and said good morning to cows.",
        "the horn of the west wind",
        "A fresh wind blew, and behind the fog the sun was shining as if it had never been away.",
    ),
    Trouble(
        "the bees flew away",
        "The apple trees were in flower, and the garden was silent.",
        "the queen of the wild bees",
        "A soft humming filled the garden, and that autumn the branches had to be propped.",
    ),
    Trouble(
        "a shadow was stolen every night",
        "People without shadows grew thin and sad.",
        "the lamp that never lies",
        "The shadows slipped back under the doors and lay down beside their owners.",
    ),
    Trouble(
        "the salt lost its taste",
        "The soup was like water, and the cook wept into it in vain.",
        "a crystal from the mountain hall",
        "The soup tasted of soup again, and everyone asked for a second bowl.",
    ),
)

ELDERS = (
    "the oldest woman in the village",
    "the schoolmaster",
    "the ferryman",
    "an old soldier",
    "the midwife",
    "the priest",
    "a pedlar with a monkey",
    "the mayor",
    "the blind fiddler",
)

FOODS = (
    "a loaf of bread",
    "six apples",
    "a piece of hard cheese",
    "a bag of walnuts",
    "two onions",
    "some cold pancakes",
    "a bottle of cider",
    "a smoked fish",
    "a handful of dried plums",
    "a jar of pickles",
)

SEASONS = ("spring", "summer", "autumn", "winter")

FAREWELLS = (
    "kissed everyone twice",
    "shut the door without a sound",
    "promised to be back before the leaves fell",
    "walked the first three steps backwards for luck",
    "looked round once more",
    "left the key under the flower pot",
)

SETTING_OUT = (
    "when the stars were still out",
    "at sunrise",
    "with the first cock crow",
    "in a light rain",
    "on a bright windy morning",
    "while the village was asleep",
)

PLACES = (
    Place(
        "a forest of tall pines",
        (
            "The trees stood so close together that the light came down green.",
            "Somewhere a woodpecker was knocking, as if it wanted to be let in.",
            "The ground was soft with needles, and no footstep could be heard.",
        ),
        "Twice the path ended, and twice it began again behind a fallen trunk.",
        "under a roof of branches",
    ),
    Place(
        "a wide marsh",
        (
            "Pools of black water lay between the reeds.",
            "A thousand frogs were singing, and none of them kept time.",
            "Little blue lights danced where no house could be.",
        ),
        "At every step the mud tried to keep a shoe.",
        "on a dry island no bigger than a table",
    ),
    Place(
        "a river without a bridge",
        (
            "The water was brown and fast and full of branches.",
            "On the other bank a fire was burning.",
            "An empty boat turned slowly in the middle of the stream.",
        ),
        "The current pulled like a team of horses.",
        "in the bottom of an old boat",
    ),
    Place(
        "a ruined mill",
        (
            "Ivy had grown through the windows.",
            "The great wheel was broken, and moss hung from it like a beard.",
            "An owl's nest filled the place where the flour used to fall.",
        ),
        "The stairs were rotten, and the third step gave way.",
        "on a heap of empty sacks",
    ),
    Place(
        "a narrow mountain pass",
        (
            "Far below, the road looked like a dropped ribbon.",
            "Old snow lay in the cracks, even in that season.",
            "Every stone that fell took a long time to arrive.",
        ),
        "The wind was so strong that one had to walk bent double.",
        "behind a rock, out of the wind",
    ),
    Place(
        "a crossroads with four signs",
        (
            "All the signs pointed the same way.",
            "Somebody had left a bunch of fresh flowers under the post.",
            "Four roads met there, and not one of them looked friendly.",
        ),
        "Each road seemed to be longer than the others.",
        "under the signpost, with a stone for a pillow",
    ),
    Place(
        "a market town",
        (
            "The stalls were piled with melons, mirrors and singing birds.",
            "Everyone was shouting, and nobody was listening.",
            "A juggler threw seven plates and caught eight.",
        ),
        "In the crowd a thief tried to cut the strings of the bag.",
        "in a hayloft that cost one copper coin",
    ),
    Place(
        "an inn with a red door",
        (
            "The soup was hot, and the stories were long.",
            "A fire of pear wood was burning in the hearth.",
            "Seven travellers sat at the table, and one of them had no shadow.",
        ),
        "The beds were so short that everybody's feet stuck out.",
        "beside the fire, among the travellers' boots",
    ),
    Place(
        "a lake as still as glass",
        (
            "The mountains stood on their heads in the water.",
            "In the middle of the lake there was an island with a single tree.",
            "Swans drifted by like folded letters.",
        ),
        "The path along the shore was under water.",
        "among the roots of a willow",
    ),
    Place(
        "a field of stones",
        (
            "Some of the stones looked like people who had sat down to rest.",
            "Lizards ran from crack to crack.",
            "The stones were warm, as if they had only just gone to sleep.",
        ),
        "There was no shade, and the water bottle was empty.",
        "between two stones that leaned together",
    ),
    Place(
        "a deep cave",
        (
            "Water dripped from the ceiling, and each drop rang like a coin.",
            "The walls glittered when the light touched them.",
            "From far inside came a sound like slow breathing.",
        ),
        "The passage became so low that one had to crawl.",
        "on a ledge above the dark water",
    ),
    Place(
        "an orchard behind a wall",
        (
            "Golden pears hung over the path.",
            "The grass was full of fallen fruit and drunken wasps.",
            "A ladder leaned against the oldest tree.",
        ),
        "The gate was locked, and the wall was topped with thorns.",
        "in the fork of an apple tree",
    ),
    Place(
        "a beach of white sand",
        (
            "Driftwood lay about like the bones of whales.",
            "The waves came in, said one word, and went out again.",
            "Small crabs wrote letters in the sand.",
        ),
        "The tide was coming in on both sides.",
        "under an upturned boat",
    ),
    Place(
        "a village of empty houses",
        (
            "The doors stood open, and the tables were still laid.",
            "A weathercock turned, although there was no wind.",
            "In one kitchen a kettle was still warm.",
        ),
        "Every street led back to the same square.",
        "in a bed that somebody else had made",
    ),
    Place(
        "a bridge of ropes",
        (
            "It swung over a gorge so deep that birds flew below it.",
            "Half of the planks were missing.",
            "On the far side stood a tiny house with smoke in its chimney.",
        ),
        "In the middle a rope broke with a crack like a whip.",
        "at the foot of the bridge, wrapped in a cloak",
    ),
    Place(
        "a hill with a single thorn tree",
        (
            "From the top one could see the sea, thin as a thread.",
            "Rags of many colours were tied to the branches.",
            "Hares had worn little paths around the tree.",
        ),
        "The hill was much higher than it had looked.",
        "in a hollow full of dry grass",
    ),
    Place(
        "a snowfield",
        (
            "The snow was blue in the shade and gold in the sun.",
            "A line of tiny tracks ran straight ahead and suddenly stopped.",
            "It was so quiet that one could hear the flakes land.",
        ),
        "The cold crept through two coats and a scarf.",
        "in a hole dug in the snow",
    ),
    Place(
        "a garden of statues",
        (
            "A stone king was playing chess with a stone child.",
            "Roses climbed over broken arms and noses.",
            "One of the statues had wet eyes.",
        ),
        "The hedges were taller than a house and had been planted to confuse.",
        "on a marble bench",
    ),
    Place(
        "a tower without a door",
        (
            "High up, in the only window, a candle was burning.",
            "Ravens flew round and round the roof.",
            "Someone had scratched a row of numbers into the wall.",
        ),
        "The stones were smooth and gave no hold to hand or foot.",
        "against the warm side of the tower",
    ),
    Place(
        "a valley full of sheep",
        (
            "There were so many of them that the hills seemed to move.",
            "Bells tinkled near and far.",
            "An old dog watched from a flat rock and counted under its breath.",
        ),
        "The sheep filled the road from hedge to hedge and would not make room.",
        "in a shepherd's hut with a leaking roof",
    ),
)

CREATURES = (
    Creature(
        "fox",
        "a lean fox with a torn ear",
        "sitting in the middle of the path",
        "with a polite bow",
        "I have a thorn in my paw, and I cannot reach it",
        "drew the thorn out with two fingers",
        "a whistle made of bone",
        "Blow it once and every door will think that you live there",
        "{He} blew the bone whistle once, and the door swung open by itself.",
    ),
    Creature(
        "heron",
        "a grey heron on one leg",
        "staring into the water",
        "without turning its head",
        "My nest is breaking, and I have no hands to mend it",
        "wove new reeds into the nest",
        "a long grey feather",
        "It writes the truth, whoever holds it",
        "The grey feather wrote the secret name on the wall, and {hero} read it aloud.",
    ),
    Creature(
        "badger",
        "a broad old badger with spectacles",
        "digging a very straight hole",
        "in a deep voice",
        "I have lost my grandfather's ring, and my eyes are weak",
        "found the ring in the third heap of earth",
        "a lump of black earth",
        "Throw it behind you and it will become a hill",
        "{He} threw the lump of earth, and a hill rose up behind {him}.",
    ),
    Creature(
        "hare",
        "a thin hare in a waistcoat",
        "running in small circles",
        "out of breath",
        "The dogs are after me, and I cannot run any more",
        "hid the hare under {his} coat until the dogs had gone by",
        "a pair of straw shoes",
        "Who wears them leaves no tracks",
        "In the straw shoes {he} crossed the hall, and nobody heard a step.",
    ),
    Creature(
        "raven",
        "a raven as large as a goose",
        "sitting on a broken branch",
        "in a voice like a rusty hinge",
        "My wing is broken, and the winter is near",
        "set the broken wing with a twig and a strip of cloth",
        "a black pearl",
        "Look through it and you will see what is hidden",
        "{He} looked through the black pearl and saw the hidden stair.",
    ),
    Creature(
        "toad",
        "a fat toad with golden eyes",
        "sitting on a stone like a king",
        "slowly and sadly",
        "A cart has broken the wall of my house",
        "built the wall again, pebble by pebble",
        "a drop of dew in a nutshell",
        "It puts out any fire",
        "{He} poured out the drop of dew, and the ring of fire died with a hiss.",
    ),
    Creature(
        "hedgehog",
        "a hedgehog with a lantern",
        "looking for something under the leaves",
        "in a small clear voice",
        "I am cold, and my matches are wet",
        "lit the lantern and warmed the small cold feet",
        "a needle that always points home",
        "Follow it when you are lost",
        "The needle turned in {his} hand and showed the way out of the maze.",
    ),
    Creature(
        "goose",
        "a white goose with a crown of daisies",
        "blocking the road",
        "in the tone of a duchess",
        "My seven children are stuck in the mud",
        "waded in to the waist and carried out the seven children",
        "an egg of pure silver",
        "Break it when nothing else can help",
        "{He} broke the silver egg, and a storm of white wings filled the room.",
    ),
    Creature(
        "giant",
        "a giant with a cold in his nose",
        "crying into a tablecloth",
        "so loudly that the leaves fell",
        "I have a splinter in my thumb, and nobody dares to come near me",
        "climbed up the sleeve and pulled until the splinter came out",
        "a button as big as a plate",
        "Hold it before you and no arrow will touch you",
        "The arrows struck the giant's button and dropped to the floor like dead flies.",
    ),
    Creature(
        "dwarf",
        "a dwarf in a red hat",
        "sitting on a barrel",
        "with a frown",
        "My beard is caught in a crack, and I have been here since Tuesday",
        "cut only the very tip of the beard, and he was free",
        "a purse with one coin in it",
        "Spend the coin and it will come back by morning",
        "{He} paid the gatekeeper with the coin, and before long it was back in the purse.",
    ),
    Creature(
        "pedlar",
        "a pedlar with a pack on his back",
        "resting beside the road",
        "with a wink",
        "My strap is torn, and my goods are all over the road",
        "gathered up every comb and button",
        "a ribbon of seven colours",
        "Tie it to what you love and it cannot be stolen",
        "{He} tied the ribbon round the treasure, and no hand could pull it away.",
    ),
    Creature(
        "wolf",
        "an old wolf with a white muzzle",
        "lying across the way",
        "between two coughs",
        "A bone is stuck in my throat, and I have not eaten for nine days",
        "reached between the yellow teeth and took out the bone",
        "a grey hair from its back",
        "Hold it up and you will be as strong as I was",
        "{He} held up the grey hair and lifted the iron bar as if it were a straw.",
    ),
    Creature(
        "otter",
        "a wet and merry otter",
        "sliding down the bank",
        "between two laughs",
        "The trap has closed on my brother's foot",
        "opened the trap with a stone and a branch",
        "a round stone with a hole",
        "Put it under your tongue and you can breathe under water",
        "With the stone under {his} tongue {he} walked along the bottom of the moat.",
    ),
    Creature(
        "owl",
        "an owl with tired eyes",
        "reading a very large book",
        "with a yawn",
        "The last page of my book is torn, and I cannot sleep until I know the end",
        "thought of an end for the book, and it was a happy one",
        "a word that nobody remembers",
        "Say it when they ask you who you are",
        "{He} said the forgotten word, and the guards stood aside.",
    ),
    Creature(
        "donkey",
        "a donkey with a straw hat",
        "refusing to take another step",
        "with dignity",
        "They have loaded me with more than three donkeys can carry",
        "took half of the load on {his} own back",
        "a tuft of its tail",
        "Shake it and whoever sees you must tell the truth",
        "{He} shook the tuft of hair, and the false king had to say where the treasure was.",
    ),
    Creature(
        "bear",
        "a brown bear with a basket",
        "picking berries one by one",
        "with its mouth full",
        "The bees have stung my nose, and now I cannot smell the way to my den",
        "cooled the swollen nose with wet moss",
        "a pot that is never empty",
        "Ask it for soup and you will not be hungry",
        "The watchmen ate from the magic pot until they fell asleep.",
    ),
    Creature(
        "witch",
        "a young witch with a broken broom",
        "kicking a bucket",
        "angrily",
        "I fell out of the sky, and my broom will not fly without a new handle",
        "cut a new handle from a young hazel",
        "a black candle",
        "As long as it burns, nobody can see you",
        "{He} lit the black candle and walked past the guards, and not one of them turned his head.",
    ),
    Creature(
        "fiddler",
        "a fiddler with only three strings",
        "playing to an empty road",
        "softly",
        "I have lost my fourth string, and half of my songs with it",
        "twisted a new string out of horsehair",
        "a tune in nine notes",
        "Hum it and everything with feet must dance",
        "{He} hummed the nine notes, and the guards danced out of the gate and down the hill.",
    ),
    Creature(
        "snail",
        "a snail with a house of pearl",
        "crossing the road, and not for the first time",
        "after a long pause",
        "I set out in spring to visit my cousin, and the road is so dry",
        "carried the snail to the other side and poured out some water",
        "a thread of silver slime",
        "It sticks to everything and breaks for nobody",
        "{He} climbed up the silver thread, hand over hand, to the highest window.",
    ),
    Creature(
        "ferrywoman",
        "a ferrywoman with arms like a smith's",
        "mending a sail",
        "kindly",
        "My oar is broken, and there are people waiting on the other side",
        "carved a new oar from a straight piece of ash",
        "a bottle with a wind in it",
        "Pull the cork when you are in a hurry",
        "{He} pulled the cork, and the wind carried {him} over the wall.",
    ),
)

GUARDED_PLACES = (
    ("the castle of glass", "a prince who never slept", "a wall without a gate"),
    ("the hall under the mountain", "a dragon with a cold heart", "a door of solid iron"),
    ("the house at the end of the world", "an old woman with a hundred keys", "a hedge of thorns"),
    ("the palace of the sea king", "a crab as large as a cart", "a moat of green water"),
    ("the tower of the north wind", "four brothers who were never at home together", "a stair with a thousand steps"),
    ("the garden of the moon", "a silent gardener in silver boots", "a maze of white hedges"),
    ("the library of the lost", "a librarian made of dust", "a lock with ten thousand letters"),
    ("the market of dreams", "a merchant with two faces", "a crowd that never opened"),
)

MORALS = (
    "And that is why nobody there ever sends a stranger away.",
    "Since then they say in that country that a small kindness is the best walking stick.",
    "If you pass that way, you may still hear the story, though each time it is a little longer.",
    "The shoes from that journey hang over the door to this day.",
    "And whoever does not believe it may pay a penny and ask the fox.",
    "From that day on there was always one more plate on the table.",
    "They lived well, and we live no worse.",
    "And the story is true, for the one who told it to me is still warm from telling it.",
)

NEIGHBOURS = (
    "the rich farmer",
    "the judge",
    "the widow with the seven locks",
    "the moneylender",
    "the tax collector",
    "the doctor",
    "the captain",
    "the wine merchant",
)

REFUSALS = (
    "My house is full",
    "Come back tomorrow, or better next year",
    "I have just swept the floor",
    "The soup is finished",
    "My dog does not like hats",
    "We do not open after dark",
)

STRANGERS = (
    ("an old man with snow in his beard", "old man"),
    ("a tall woman in a cloak of feathers", "tall woman"),
    ("a child with a very old face", "child"),
    ("a beggar with rings on every finger", "beggar"),
    ("a sailor who had never seen the sea", "sailor"),
    ("a monk with a covered basket", "monk"),
)

STORMS = (
    "a storm came down from the hills and tore the slates from the roofs",
    "the rain fell so hard that the ducks went indoors",
    "snow began to fall, in flakes as large as handkerchiefs",
    "hail knocked on every window like a hundred bailiffs",
    "thunder rolled over the valley like barrels over a bridge",
)

GOODS = (
    "a cow with one horn",
    "a copper kettle",
    "a lame horse",
    "a feather bed",
    "a singing kettle",
    "a goose that laid on Sundays",
    "a barrel of herrings",
    "a rusty sword",
    "a mirror without a frame",
    "a wheel of cheese",
    "a hat with a hole in it",
    "a parrot that knew three words",
    "a sack of beans",
    "a green umbrella",
    "a fiddle",
    "a ladder of twelve steps",
    "a box of buttons",
    "a pair of red boots",
    "a grandfather clock",
    "a boat without a bottom",
)

TRADERS = (
    ("a soldier on his way home", "tired of carrying it"),
    ("a farmer's wife in a hurry", "late for a wedding"),
    ("a boy with freckles", "longing for an adventure"),
    ("a nun on a mule", "under a vow to own nothing"),
    ("a tinker with a cough", "bored with his old things"),
    ("a lady in a carriage", "fond of anything new"),
    ("a juggler without an audience", "in need of a new trick"),
    ("a hunter with an empty bag", "ashamed to come home with nothing"),
    ("a student with a heavy head", "in debt to his landlord"),
    ("a sea captain without a ship", "on the way to the coast"),
)
