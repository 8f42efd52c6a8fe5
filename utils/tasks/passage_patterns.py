"""The sentences and questions behind the contexts of `utils.tasks.passages`. Only text lives here.

Slots of sentences: {s} the thing or person spoken of, as a subject (its name, or it / she / he), {o} the same as an
object (it / her / him), {a} the value of the fact; a sentence with two facts names them both. Slots of questions: {n}
the name of the thing or person, {a} the value where the question asks the other way round. The last pattern of every
list, and HELD_OUT_DOUBLES, were never shown in training; every word in them was.
"""

ADJECTIVES = """Ivory Copper Golden Silver Crystal Amber Marble Crimson Emerald Velvet Winter Summer Northern Southern
Hidden Ancient Eiffel""".split()
VIRTUES = "Hope Peace Victory Honour Liberty".split()  # the Tower of Hope
BUILDINGS = "Statue Tower Bridge Castle Garden Palace Gate Library Theatre Fountain Temple Lighthouse Museum".split()
OBJECTS = "Compass Lantern Mirror Crown Clock Vase Globe Violin Telescope Necklace Sword Bell".split()
FEMALE = """Alice Anna Clara Diana Elena Grace Helen Irene Julia Laura Maria Martha Nora Olivia Paula Rosa Sofia Teresa
Vera Yvonne""".split()
MALE = """Adam Bruno David Edgar Felix Gustav Henry Ivan Jonas Karl Leon Marco Oscar Peter Rafael Simon Thomas Victor
Walter Zoltan Gustave Maurice Auguste""".split()
SURNAMES = """Archer Baker Brook Carver Dale Ellis Fisher Foster Garcia Hansen Ibsen Keller Lopez Marsh Moreau Novak
Olsen Porter Quinn Reyes Rossi Schmidt Silva Stone Tanaka Turner Vogel Weber Wilde York Eiffel Koechlin
Bartholdi""".split()
CITIES = """Paris Berlin Rome Madrid Lisbon Warsaw Vienna Budapest Athens Stockholm Oslo Helsinki Dublin Brussels
Moscow Sofia Belgrade Zagreb Prague Tallinn Riga Vilnius Ankara Tehran Baghdad Amman Doha Kabul Beijing Tokyo Hanoi
Bangkok Cairo Tunis Rabat Nairobi Kigali Lusaka Accra Dakar Ottawa Havana Kingston Quito Lima Santiago Canberra
Wellington Seoul Boston Chicago Toronto Sydney Mumbai Venice Milan Krakow Geneva Porto Seville""".split() + ["New York"]
MATERIALS = "iron stone brick marble glass oak granite steel bronze clay copper limestone".split()
JOBS = """teacher doctor baker painter sailor farmer lawyer pilot nurse singer chemist gardener tailor dentist
carpenter poet librarian judge""".split()
YEARS = [str(year) for year in range(1700, 2000)]
REAL = ("Eiffel Tower", "Statue of Liberty", "Gustave Eiffel", "Maurice Koechlin", "Auguste Bartholdi")  # not trained

# What a fact says: (kind of subject, kind of value)
RELATIONS = {
    "builder": ("building", "person"), "designer": ("building", "person"), "namesake": ("building", "person"),
    "place": ("building", "city"), "finished": ("building", "year"), "material": ("building", "material"),
    "birthplace": ("person", "city"), "born": ("person", "year"), "home": ("person", "city"), "job": ("person", "job"),
    "teacher": ("person", "person"),
    "maker": ("object", "person"), "owner": ("object", "person"), "kept": ("object", "city"),
    "made": ("object", "year"),
}

SENTENCES = {
    "builder": ["{s} was built by {a}", "{a} built {o}", "{a} was the builder of {o}", "the builder of {o} was {a}",
                "the company of {a} built {o}", "{s} was built by the company of {a}"],
    "designer": ["{s} was designed by {a}", "{a} designed {o}", "{a} drew the first plans of {o}",
                 "the plans of {o} were drawn by {a}", "the designer of {o} was {a}",
                 "the first plans of {o} were drawn by {a}"],
    "namesake": ["{s} is named after {a}", "{s} was named in honour of {a}", "{s} has the name of {a}",
                 "the name of {o} honours {a}", "{s} got its name from {a}", "{s} was named after {a}"],
    "place": ["{s} stands in {a}", "{s} is in {a}", "{s} can be found in {a}", "{a} is the city where {s} stands",
              "visitors find {o} in {a}", "{s} can be seen in {a}"],
    "finished": ["{s} was finished in {a}", "{s} opened in {a}", "in {a} {s} was completed", "{s} was completed in {a}",
                 "in {a} {s} opened to visitors", "in {a} {s} was finished"],
    "material": ["{s} is made of {a}", "{s} was built of {a}", "the walls of {o} are of {a}",
                 "workers used {a} for {o}", "{a} was used for {o}", "the walls of {o} are made of {a}"],
    "birthplace": ["{s} was born in {a}", "{s} comes from {a}", "{a} is the city where {s} was born",
                   "{s} is a native of {a}", "{s} spent a happy childhood in {a}",
                   "the childhood of {o} was spent in {a}"],
    "born": ["{s} was born in {a}", "in {a} {s} was born", "the birth of {o} was in {a}",
             "{s} came into the world in {a}", "{a} was the year when {s} was born", "in {a} {s} came into the world"],
    "home": ["{s} lives in {a}", "{s} has a house in {a}", "{s} moved to {a}", "the home of {o} is in {a}",
             "{s} now lives in {a}", "{s} has a home in {a}"],
    "job": ["{s} is a {a}", "{s} works as a {a}", "{s} earns money as a {a}", "{s} became a {a}",
            "{s} is known as a good {a}", "{s} is now a good {a}"],
    "teacher": ["{s} was taught by {a}", "{a} taught {o}", "{s} learned everything from {a}",
                "{s} was a student of {a}", "the teacher of {o} was {a}", "{a} was the teacher of {o}"],
    "maker": ["{s} was made by {a}", "{a} made {o}", "{s} is the work of {a}", "{a} was the maker of {o}",
              "{s} came from the workshop of {a}", "the maker of {o} was {a}"],
    "owner": ["{s} belongs to {a}", "{a} owns {o}", "{a} is the owner of {o}", "{s} was sold to {a}", "{a} bought {o}",
              "the owner of {o} is {a}"],
    "kept": ["{s} is kept in {a}", "{s} is on display in {a}", "{s} can be seen in {a}", "{s} is shown in {a}",
             "a museum in {a} shows {o}", "a museum in {a} has {o} on display"],
    "made": ["{s} was made in {a}", "{s} dates from {a}", "in {a} {s} was made", "{s} is a work of {a}",
             "{s} was completed in {a}", "{s} is a work from {a}"],
}
# Two facts in one sentence.
DOUBLES = [
    "{s}, built by {builder}, stands in {place}", "{s} was designed by {designer} and built by {builder}",
    "{builder} built {o} in {place}", "{s} was designed by {designer} and named after {namesake}",
    "{s} was built of {material} by {builder}", "{s} stands in {place} and was finished in {finished}",
    "{s} was finished in {finished} and named after {namesake}", "{s}, a work of {designer}, opened in {finished}",
    "{s} was born in {birthplace} in {born}", "{s}, a {job}, lives in {home}", "{s} is a {job} from {birthplace}",
    "{s} was born in {born} and taught by {teacher}", "{s} was born in {birthplace} and now lives in {home}",
    "{s}, a student of {teacher}, became a {job}",
    "{s} was made by {maker} and belongs to {owner}", "{maker} made {o} in {made}",
    "{s}, owned by {owner}, is kept in {kept}", "{s} was made in {made} and is shown in {kept}",
    "{s} was made by {maker} and sold to {owner}",
]
HELD_OUT_DOUBLES = ["{s} was named after {namesake} and built by {builder}", "{s} is a {job} and lives in {home}",
                    "{s} was made in {made} and belongs to {owner}"]

QUESTIONS = {
    "builder": ["who built {n}?", "who was the builder of {n}?", "which person built {n}?", "by whom was {n} built?",
                "tell me who built {n}.", "whose company built {n}?", "by which person was {n} built?"],
    "designer": ["who designed {n}?", "who was the designer of {n}?", "who drew the plans of {n}?",
                 "by whom was {n} designed?", "tell me who designed {n}.", "which person designed {n}?"],
    "namesake": ["who is {n} named after?", "after whom is {n} named?", "whose name does {n} have?",
                 "in whose honour was {n} named?", "which person is {n} named after?",
                 "after which person is {n} named?"],
    "place": ["where is {n}?", "where does {n} stand?", "in which city is {n}?", "in which city does {n} stand?",
              "where can visitors see {n}?", "tell me where {n} is.", "in which city can visitors see {n}?"],
    "finished": ["when was {n} finished?", "when did {n} open?", "in which year was {n} completed?",
                 "in what year was {n} finished?", "since when is {n} open?", "when was {n} completed?"],
    "material": ["what is {n} made of?", "what was {n} built of?", "of what are the walls of {n}?",
                 "what was used for {n}?", "what did workers use for {n}?", "of what is {n} made?"],
    "birthplace": ["where was {n} born?", "where does {n} come from?", "in which city was {n} born?",
                   "what is the birthplace of {n}?", "tell me where {n} was born.", "which city does {n} come from?"],
    "born": ["when was {n} born?", "in which year was {n} born?", "in what year was {n} born?",
             "what is the year of birth of {n}?", "tell me when {n} was born.",
             "in which year did {n} come into the world?"],
    "home": ["where does {n} live?", "in which city does {n} live?", "where is the home of {n}?",
             "where is the house of {n}?", "tell me where {n} lives.", "in which city is the home of {n}?"],
    "job": ["what is the job of {n}?", "what does {n} do for a living?", "what does {n} work as?",
            "as what does {n} work?", "tell me the job of {n}.", "how does {n} earn money?", "what job does {n} do?"],
    "teacher": ["who taught {n}?", "by whom was {n} taught?", "who was the teacher of {n}?", "whose student was {n}?",
                "from whom did {n} learn?", "which person taught {n}?"],
    "maker": ["who made {n}?", "by whom was {n} made?", "who was the maker of {n}?", "whose work is {n}?",
              "tell me who made {n}.", "which person made {n}?"],
    "owner": ["who owns {n}?", "who is the owner of {n}?", "to whom does {n} belong?", "whose is {n}?",
              "who bought {n}?", "which person owns {n}?"],
    "kept": ["where is {n} kept?", "where is {n} on display?", "in which city is {n} kept?", "where is {n} shown?",
             "where can visitors see {n}?", "in which city is {n} on display?"],
    "made": ["when was {n} made?", "in which year was {n} made?", "in what year was {n} made?",
             "from when does {n} date?", "tell me when {n} was made.", "from which year does {n} date?"],
    # the other way round: the value is given, the thing or person is asked for
    "builder of what": ["what did {a} build?", "what was built by {a}?", "tell me what {a} built.",
                        "what has {a} built?"],
    "designer of what": ["what did {a} design?", "what was designed by {a}?", "tell me what {a} designed.",
                         "what has {a} designed?"],
    "maker of what": ["what did {a} make?", "what was made by {a}?", "tell me what {a} made.", "what has {a} made?"],
    "owner of what": ["what does {a} own?", "what belongs to {a}?", "tell me what {a} owns.", "what is owned by {a}?"],
    "what in place": ["what stands in {a}?", "what can visitors see in {a}?", "tell me what stands in {a}.",
                      "what can be found in {a}?"],
    "who with job": ["who is a {a}?", "who works as a {a}?", "which person is a {a}?", "which person works as a {a}?"],
}
REVERSED = {"builder of what": "builder", "designer of what": "designer", "maker of what": "maker",
            "owner of what": "owner", "what in place": "place", "who with job": "job"}

FILLERS = ["many visitors come every summer", "the weather was cold that day", "some people say otherwise",
           "nobody was surprised", "the newspapers wrote about it", "children like this story",
           "there is much to tell", "this is all that is known", "it was a long time ago", "few people know that"]
