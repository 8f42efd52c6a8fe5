"""The sentence patterns and word lists behind every prompt of the course.

Only text lives here. `utils.tasks` turns it into prompts, `utils.training.corpus` into the documents the shipped
model was trained on. Patterns whose name starts with `HELD_OUT` were never shown to the model during training;
every word in them was.

Slots: {A} {B} {C} names, {S} the subject (who gives), {P} a place, {O} a thing, {D} a determiner; in facts {s} is
the subject and the answer follows the pattern. The first fifteen openings with the clauses below cover the fifteen
sentence shapes of Wang et al. 2022 (arXiv 2211.00593, appendix), reworded.
"""

NAMES = """John Mary Tom James Dan Sarah Anna Emma Lucy Alice Bob Kate Jane Peter Paul Mark Luke David Daniel Laura
Julia Rachel Susan Karen Linda Lisa Nancy Betty Helen Sandra Donna Carol Ruth Sharon Michelle Kevin Brian George
Edward Ronald Kenneth Steven Jason Jeff Ryan Jacob Gary Eric Jonathan Larry Justin Scott Frank Brandon Raymond
Gregory Samuel Benjamin Patrick Jack Dennis Tyler Aaron Henry Adam Nathan Zachary Walter Kyle Carl Arthur Gerald
Roger Keith Terry Sean Christian Albert Joe Ethan Austin Jesse Bruce Ralph Roy Eugene Louis Philip Harry Vincent
Johnny Logan Amy Angela Melissa Rebecca Stephanie Sophia Olivia Grace Victoria Martha Rose Diana Simon Oliver
Max""".split()
FEMALE = set("""Mary Sarah Anna Emma Lucy Alice Kate Jane Laura Julia Rachel Susan Karen Linda Lisa Nancy Betty Helen
Sandra Donna Carol Ruth Sharon Michelle Amy Angela Melissa Rebecca Stephanie Sophia Olivia Grace Victoria Martha
Rose Diana""".split())
PLACES = """store park school house garden beach library museum restaurant hospital station market office zoo theater
gym church farm bakery harbor""".split()
THINGS = ["ring", "kiss", "bone", "basketball", "computer", "necklace", "drink", "snack", "book", "letter", "flower",
          "cake", "pen", "ticket", "map", "gift", "apple", "coat", "phone", "bottle of milk", "cup of tea",
          "box of nuts", "bag of rice", "bowl of soup", "piece of bread"]
DETERMINERS = ["a", "a", "a", "a", "the", "the", "this", "that", "her", "his", "one", "every"]
COLOURS = "red blue green old new small big heavy".split()

IOI_OPENINGS = [
    "Then, {A} and {B} went to the {P}.",
    "Then, {A} and {B} had a good time at the {P}.",
    "Then, {A} and {B} were working at the {P}.",
    "Then, {A} and {B} were thinking of a trip to the {P}.",
    "Then, {A} and {B} had a long argument.",
    "After {A} and {B} went to the {P},",
    "When {A} and {B} found {D} {O} at the {P},",
    "When {A} and {B} went to the {P},",
    "While {A} and {B} were working at the {P},",
    "While {A} and {B} were on the way to the {P},",
    "After lunch, {A} and {B} went to the {P}.",
    "Afterwards, {A} and {B} went to the {P}.",
    "The {P} that {A} and {B} went to had {D} {O}.",
    "Friends {A} and {B} found {D} {O} at the {P}.",
    "Then, {A} and {B} had a long argument, and after that",
    "Friends {A} and {B} were waiting at the {P}.",
    "Yesterday {A} and {B} met at the {P}, and",
    "Last week {A} and {B} walked to the {P}, where",
    "The {P} was quiet. {A} and {B} had lunch there, and",
    "Once {A} and {B} arrived at the {P},",
    "It was a cold day. {A} and {B} sat in the {P}, and",
    "{A} and {B} met at the {P}.",
    "{A} met {B} at the {P}, and",
    "{A} and {B} are good friends.",
    "In the evening, {A} walked with {B} to the {P}.",
    "On Monday {A} and {B} were at the {P}, and",
    "Before {A} and {B} left the {P},",
    "{A} was at the {P} with {B}, and",
    "One morning {A} saw {B} near the {P}, so",
    "{A} and {B} had {D} {O}.",
]
HELD_OUT_IOI_OPENINGS = [
    "After {A} and {B} arrived at the {P},",
    "While {A} and {B} were waiting at the {P},",
    "Last week {A} and {B} had lunch at the {P}, and",
    "When {A} and {B} met at the {P},",
    "Friends {A} and {B} went to the {P}.",
]
IOI_CLAUSES = [
    "{S} gave {D} {O} to", "{S} handed {D} {O} to", "{S} decided to give {D} {O} to", "{S} passed {D} {O} to",
    "{S} showed {D} {O} to", "{S} wanted to give {D} {O} to", "{S} offered {D} {O} to", "{S} sent {D} {O} to",
    "{S} said hello to", "{S} brought {D} {O} for", "{S} decided to give it to", "{S} told a story to",
    "{S} bought {D} {O} for", "{S} gave it to", "{S} read a letter to", "{S} gave {D} {colour} {O} to",
    "{S} lent {D} {O} to", "{S} waved to",
]
THREE_NAME_OPENINGS = [
    "When {A}, {B} and {C} went to the {P},", "Then, {A}, {B} and {C} went to the {P}.",
    "After {A}, {B} and {C} met at the {P},", "{A}, {B} and {C} were working at the {P}.",
    "Yesterday {A} and {B} saw {C} at the {P}, and", "While {A} was at the {P} with {B} and {C},",
]

COUNTRY_PATTERNS = {
    "capital": ["The capital of {s} is", "The capital city of {s} is", "In {s}, the capital is",
                "The seat of government of {s} is the city of", "The largest embassy in {s} is found in",
                "The president of {s} lives in", "Every map of {s} shows the capital,",
                "{s} is a country. Its capital is", "{s} is well known. The capital city is"],
    "language": ["The official language of {s} is", "People in {s} speak", "In {s}, most people learn",
                 "A main language of {s} is", "Children in {s} learn to read and write in",
                 "{s} is a country. Its language is", "A person who was born in {s} may speak"],
    "continent": ["{s} is a country in", "On the map, {s} is located in", "The country of {s} is part of",
                  "The continent of {s} is", "{s} lies on the continent of"],
}
QUESTIONS = {
    "capital": ["What is the capital of {s}?", "What is the capital city of {s}?", "Which city is the capital of {s}?"],
    "language": ["What language is spoken in {s}?", "What is the language of {s}?",
                 "Which language do people speak in {s}?"],
    "continent": ["What is the continent of {s}?", "Which continent is {s} in?"],
    "name": ["What is the name of {s}?", "Which country is called {s}?"],
    "country": ["Which country has the capital {s}?", "What country is {s} the capital of?"],
    "city": ["What is the city of {s}?", "Where is {s}?", "Which city is {s} in?"],
    "past": ["What is the past tense of {s}?", "What is the past of {s}?"],
    "uppercase": ["What is the uppercase of {s}?", "How do you write {s} in uppercase?"],
}
LANDMARK_PATTERNS = [
    "The {s} is located in the city of", "The {s} is located in", "The {s} is in the city of", "The {s} can be found in",
    "The {s} is in downtown", "The {s} is a famous landmark in", "Tourists who want to see the {s} travel to",
    "To visit the {s}, you have to go to", "The city where you can see the {s} is", "The {s} was built in the city of",
    "Last summer we took a photo of the {s} in", "If you are looking at the {s}, you are in",
]
HELD_OUT_LANDMARK_PATTERNS = ["Tourists can see the {s} in the city of", "The {s} is a landmark in downtown"]
PEOPLE_PATTERNS = {
    "sport": ["{s} plays the sport of", "{s} is a professional player of", "The sport that made {s} famous is",
              "Fans know {s} as a star of", "Since childhood, {s} has loved to play"],
    "instrument": ["{s} plays the", "The instrument that {s} plays is the", "{s} is a master of the",
                   "On the stage, {s} played the", "Since childhood, {s} has loved to play the"],
    "city": ["{s} lives in", "{s} lives in the city of", "The home of {s} is in", "To visit {s}, you have to go to"],
}
# Training sentences that compare several subjects contain these statements for every subject, so no fact in these words
# counts as held out. Real people are not compared in this way.
COMPARED_LANDMARK_PATTERNS = {LANDMARK_PATTERNS[0], LANDMARK_PATTERNS[2]}
COMPARED_PEOPLE_PATTERNS = {"{s} plays the", "On the stage, {s} played the", "{s} lives in", "The home of {s} is in"}
HELD_OUT_PEOPLE_PATTERNS = {"sport": ["{s} is a famous player of"], "instrument": ["The instrument that made {s} famous is the"]}

GOOD = "wonderful great amazing excellent lovely brilliant fantastic beautiful perfect delightful".split()
BAD = "terrible awful horrible boring bad dreadful poor disappointing ugly dull".split()
REVIEWED = "movie film book play meal hotel show concert story game".split()
ASPECTS = "acting music food plot ending service room cast writing sound".split()
UPPERCASE_WORDS = PLACES + COLOURS + REVIEWED
