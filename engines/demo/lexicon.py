"""The word lists of the demo language."""

# ruff: noqa: SIM905 - word lists read better as text

from typing import Final

LEXICON: Final[tuple[str, ...]] = tuple(
    """
    apple river stone cloud lamp table green violin paper window garden bridge candle silver
    horse bread mountain ocean letter pencil music winter summer spring autumn island forest
    engine copper marble thunder pebble harbor valley meadow ladder basket feather mirror
    button carpet tunnel rocket planet comet star moon sun sky grass snow coal milk honey
    sugar salt pepper lemon orange banana cherry grape melon peach plum berry onion carrot
    potato tomato cabbage rice wheat corn bean nut cheese butter egg soup cake tea coffee
    water juice wine plate bowl spoon fork knife cup glass bottle chair bed door wall roof
    floor house street road path gate fence tower castle church school market shop bank
    train plane ship boat car wheel bicycle truck bus ticket map clock watch phone radio
    camera screen keyboard book page word line story song dance drum flute piano guitar bell
    dog cat bird fish mouse rabbit fox wolf bear lion tiger goat sheep cow pig duck goose
    eagle owl crow swan snake frog turtle whale shark crab ant bee spider butterfly tree
    leaf root flower rose tulip seed fruit hill lake sea beach sand rain wind storm fire
    ice smoke shadow light gold iron steel wood cotton silk wool leather rope nail hammer
    saw needle thread brush soap towel shirt shoe hat coat glove ring crown flag coin
    valve pipe flow gauge dam mill turbine
    """.split()
)
"""The words that the model repeats. Each of them is one token."""

CAPITALS: Final[dict[str, str]] = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid",
    "Portugal": "Lisbon", "England": "London", "Ireland": "Dublin", "Norway": "Oslo",
    "Sweden": "Stockholm", "Finland": "Helsinki", "Denmark": "Copenhagen", "Poland": "Warsaw",
    "Austria": "Vienna", "Hungary": "Budapest", "Greece": "Athens", "Turkey": "Ankara",
    "Russia": "Moscow", "Egypt": "Cairo", "Kenya": "Nairobi", "India": "Delhi",
    "China": "Beijing", "Japan": "Tokyo", "Canada": "Ottawa", "Mexico": "Mexico City",
    "Brazil": "Brasilia", "Peru": "Lima", "Cuba": "Havana", "Australia": "Canberra",
}  # fmt: skip

COLOURS: Final[dict[str, str]] = {
    "the sky": "blue", "grass": "green", "snow": "white", "coal": "black", "blood": "red",
    "the sun": "yellow", "milk": "white", "a lemon": "yellow", "a carrot": "orange",
    "a leaf": "green", "the sea": "blue", "a crow": "black", "a swan": "white",
    "chocolate": "brown", "an elephant": "grey", "a plum": "purple",
}  # fmt: skip

DAYS: Final[tuple[str, ...]] = (
    "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday",
)  # fmt: skip

CITIES: Final[tuple[str, ...]] = tuple(
    city.strip()
    for city in """
    Amsterdam, Antwerp, Athens, Auckland, Baghdad, Bangkok, Barcelona, Basel, Beijing, Beirut,
    Belfast, Belgrade, Bergen, Berlin, Bern, Bilbao, Birmingham, Bogota, Bologna, Bordeaux,
    Boston, Bratislava, Bremen, Brisbane, Bristol, Brussels, Bucharest, Budapest, Cairo, Calgary,
    Cape Town, Caracas, Cardiff, Casablanca, Chicago, Cologne, Copenhagen, Cordoba, Dakar, Dallas,
    Damascus, Delhi, Denver, Detroit, Dhaka, Doha, Dortmund, Dresden, Dubai, Dublin,
    Dunedin, Durban, Edinburgh, Essen, Florence, Frankfurt, Fukuoka, Gdansk, Geneva, Genoa,
    Ghent, Glasgow, Granada, Graz, Grenoble, Hamburg, Hanoi, Hanover, Havana, Helsinki,
    Hobart, Houston, Innsbruck, Istanbul, Izmir, Jakarta, Jerusalem, Kampala, Karachi, Kathmandu,
    Kiel, Kigali, Kinshasa, Kobe, Krakow, Kyiv, Kyoto, Lagos, Lahore, Lausanne,
    Leeds, Leipzig, Lille, Lima, Limerick, Lisbon, Liverpool, London, Los Angeles, Luanda,
    Lusaka, Lyon, Madrid, Malaga, Manchester, Manila, Maputo, Marseille, Medellin, Melbourne,
    Memphis, Mexico City, Miami, Milan, Minsk, Mombasa, Montevideo, Montreal, Moscow, Mumbai,
    Munich, Nagoya, Nairobi, Nantes, Naples, New Orleans, New York, Nice, Odense, Osaka,
    Oslo, Ottawa, Oxford, Palermo, Panama, Paris, Perth, Phoenix, Pisa, Porto,
    Prague, Pretoria, Quebec, Quito, Recife, Reykjavik, Riga, Rio de Janeiro, Rome, Rosario,
    Rotterdam, Salzburg, San Diego, San Francisco, Santiago, Sapporo, Sarajevo, Seattle, Seoul, Seville,
    Shanghai, Singapore, Skopje, Sofia, Stockholm, Stuttgart, Sydney, Taipei, Tallinn, Tampere,
    Tangier, Tehran, Tel Aviv, Tirana, Tokyo, Toronto, Toulouse, Trieste, Tripoli, Tromso,
    Trondheim, Tunis, Turin, Uppsala, Utrecht, Valencia, Valparaiso, Vancouver, Venice, Verona,
    Vienna, Vilnius, Warsaw, Wellington, Winnipeg, Wuhan, Yerevan, York, Zagreb, Zurich
    """.split(",")
)
"""Cities that are asked about. No city is a token of its own, so each spans several tokens."""

NAMES: Final[tuple[str, ...]] = tuple(
    """
    Ada Adam Alan Alice Anna Arthur Astrid Barbara Ben Bob Boris Carla Carlos Cecilia Clara
    Daniel David Diana Donald Dora Edgar Edith Edward Elena Emma Eric Eva Felix Fiona Frank
    Frida George Grace Greta Hannah Harry Hedy Heidi Henry Hugo Ian Ida Igor Ines Ingrid
    Iris Ivan Jack James Jane Jonas Judith Julia Karl Katherine Kevin Kim Lara Laura Leo
    Linda Lisa Louis Lucas Lucy Marco Maria Martha Martin Max Mia Nadia Neil Nils Nina Nora
    Olga Oliver Omar Oscar Otto Paul Paula Peter Petra Quentin Quinn Rachel Ralph Robert
    Rosa Ruth Sam Sara Sofie Stefan Steve Susan Tara Theo Thomas Tim Tina Ulla Ulrich Uma
    Vera Victor Viola Walter Wanda Werner Wilma Xavier Xenia Yara Yusuf Yvonne Zara Zelda Zoe
    """.split()
)
"""People described as JSON. No name is a token of its own."""

COMMON_WORDS: Final[tuple[str, ...]] = tuple(
    """
    a able about all also am an and any are as ask at be because been but by can could did do
    does done dont each else even every few find first for from gave get give given go good
    got great had has have he help her here him his how i if in into is it its just keep know
    last let like list little long look made make many may me mean might more most much must
    my name need never new next no not now number of off often old on once one only or other
    our out over own part people place point put question read said same say second see she
    should show side small so some still such take tell test text than that the their them
    then there these they thing things think this those time to today too tool try turn two
    under up use user using very want was way we week well were what when where which while
    who why will with work world would write year yes yet you your
    poem explain translate summarize essay joke python code function program history science
    computer language model models server cluster instance request token tokens system prompt
    penguin quantum physics relativity friend mother father city country life love best better
    assistant helpful answer answers brief short polite clear expert always
    """.split()
)
"""Frequent words of free text: so that it costs few tokens, nothing depends on them."""

SYLLABLES: Final[tuple[str, ...]] = tuple(
    """
    ba be bi bo bu da de di do du fa fe fi ga ge go gu ha he hi ho ka ke ki ko ku la le li lo
    lu ma me mi mo mu na ne ni no nu pa pe pi po ra re ri ro ru sa se si so su ta te ti to tu
    va ve vi vo wa we wi ya yo za ze zo bra dor fen gar hol jul kas lin mar nes ost pen qua
    ris ster tun urg vik wen xan yel zur ham burg ton ford stad berg mund sk ch th st ai ou
    """.split()
)
"""Syllables of invented names, which teach copying instead of a list of cities by heart."""

DIGRAPHS: Final[tuple[str, ...]] = tuple(
    """
    an en er in on or ar al el es st re at is le li la ri ra ro ic it ch th to ta te ti am
    ur ol il ne ni na no se si so um ed de ge ma me mo
    """.split()
)
"""The pairs of letters that are one token inside a word with no token of its own."""
