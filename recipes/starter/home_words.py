"""The words that fill Home Assistant's templates, and everyday ways of saying the same things.

A list's last fifth is seen in test sentences only.
"""

# Word lists read best as they are written.
# ruff: noqa: E501
# fmt: off

from __future__ import annotations

from typing import Any

AREAS = [
    "kitchen", "bedroom", "living room", "bathroom", "garage", "office", "hallway", "dining room", "kids room",
    "guest room", "master bedroom", "basement", "attic", "laundry room", "garden", "patio", "balcony", "study", "den",
    "nursery", "entryway", "lounge", "pantry", "workshop", "conservatory", "playroom", "porch", "front yard",
    "upstairs hallway", "media room", "sun room", "library", "gym", "utility room", "walk-in closet", "front room",
    "back room", "game room", "cellar", "terrace", "sauna", "wine cellar", "craft room", "mudroom", "shed", "spare room",
    "foyer", "driveway", "loft", "music room", "back garden", "home theater", "breakfast room", "storage room", "carport",
]
FLOORS = ["ground", "first", "second", "third", "upper", "lower", "top", "main", "fourth", "bottom"]
ITEMS = [
    "milk", "eggs", "bread", "butter", "apples", "bananas", "coffee", "olive oil", "toilet paper", "tomatoes", "rice",
    "pasta", "cheddar cheese", "orange juice", "dish soap", "chicken breasts", "dog food", "batteries", "yogurt",
    "flour", "sugar", "onions", "potatoes", "green tea", "paper towels", "salmon", "carrots", "peanut butter",
    "oat milk", "shampoo", "avocados", "garlic", "light bulbs", "cereal", "toothpaste", "cat litter", "lemons",
    "sparkling water", "honey", "spinach", "maple syrup", "strawberries", "laundry detergent", "walnuts", "tofu",
]
CHORES = [
    "call the dentist", "water the plants", "pay the rent", "buy stamps", "clean the gutters", "return the parcel",
    "book flights", "renew the passport", "fix the bike", "email the landlord", "wash the car", "feed the fish",
    "pick up the suit", "change the filter", "mow the lawn", "order new tires", "take out the trash", "walk the dog",
    "file taxes", "defrost the freezer", "backup the laptop", "paint the fence",
]
MUSIC = [
    "jazz", "classical music", "the beatles", "bohemian rhapsody", "miles davis", "lo-fi beats", "queen", "abbey road",
    "relaxing piano", "daft punk", "morning news", "taylor swift", "blue in green", "the wall", "norah jones",
    "hotel california", "my favorites", "pink floyd", "workout hits", "nina simone", "thriller", "random access memories",
    "christmas songs", "radiohead", "kind of blue", "bach cello suites", "rock classics", "adele", "johnny cash",
    "summer vibes", "fleetwood mac", "rain sounds", "imagine", "david bowie", "purple rain", "hans zimmer",
]
MESSAGES = [
    "dinner is ready", "the movie starts in five minutes", "it is time for bed", "we are leaving now", "someone is at the door",
    "breakfast is served", "the taxi is here", "please come downstairs", "I am home", "the laundry is done", "school starts in ten minutes",
    "the cake is in the oven", "grandma is on the phone", "please feed the cat", "the game is on", "lunch is on the table",
]
TIMERS = ["pizza", "eggs", "laundry", "tea", "bread", "homework", "pasta", "nap", "rice", "cookies", "workout", "chicken", "oven", "potatoes", "meditation"]
COMMANDS = [
    "turn off the lights", "open the blinds", "turn on the fan", "close the garage door", "turn off the tv",
    "lock the front door", "pause the music", "turn on the heater", "start the vacuum", "stop the sprinkler",
    "turn on the porch light", "mute the radio", "turn off the oven", "close the curtains",
]
ZONES = ["home", "work", "school", "office", "gym", "grandma's house", "university", "the cottage"]
WORDS: dict[str, list[str]] = {
    "area": AREAS, "floor": FLOORS, "shopping_list_item": ITEMS, "todo_list_item": CHORES + ITEMS, "search_query": MUSIC,
    "message": MESSAGES, "timer_name": TIMERS, "timer_command": COMMANDS, "zone": ZONES,
}

DEVICES: dict[str, list[str]] = {
    "light": ["bedside lamp", "desk lamp", "ceiling light", "floor lamp", "reading lamp", "chandelier", "night light", "LED strip",
              "porch light", "table lamp", "spotlight", "kitchen island", "hall lamp", "fairy lights", "wall sconce", "mirror light",
              "lava lamp", "stair lights", "aquarium light", "pendant", "closet light", "flood light"],
    "switch": ["coffee maker", "heater", "sprinkler", "outlet", "kettle", "space heater", "dehumidifier", "Christmas tree", "pool pump",
               "washing machine", "toaster", "electric blanket", "dishwasher", "fish tank", "water pump", "iron", "rice cooker", "charger"],
    "fan": ["ceiling fan", "desk fan", "exhaust fan", "tower fan", "bathroom fan", "box fan", "air purifier", "attic fan", "range hood"],
    "media_player": ["TV", "radio", "kitchen speaker", "stereo", "Chromecast", "soundbar", "living room speaker", "bedroom TV",
                     "record player", "home cinema", "Sonos", "projector", "HomePod", "Apple TV", "gramophone"],
    "input_boolean": ["guest mode", "vacation mode", "night mode", "party mode", "sleep mode", "away mode", "holiday lighting", "quiet mode"],
    "climate": ["thermostat", "air conditioner", "bedroom AC", "radiator", "heat pump", "underfloor heating", "nursery thermostat", "boiler",
                "hallway radiator", "mini split", "office AC"],
    "cover": ["garage door", "left blind", "bedroom curtains", "patio awning", "roller shutter", "front gate", "skylight shade",
              "kitchen blinds", "right curtain", "office blinds", "pergola roof", "barn door", "side gate"],
    "valve": ["water valve", "gas valve", "irrigation valve", "main valve", "garden tap", "heating valve", "pool valve"],
    "lock": ["front door", "back door", "garage lock", "side door", "patio door", "gun safe", "garden gate", "cellar door", "mailbox lock", "main entrance"],
    "scene": ["movie night", "good morning", "romantic dinner", "bedtime", "party time", "relax", "bright", "focus", "sunset glow", "game night", "candlelight"],
    "script": ["good night routine", "morning routine", "leave home", "water plants routine", "wake up sequence", "coming home", "clean up routine"],
    "button": ["doorbell", "restart router", "garage remote", "panic button", "reboot server", "feed cat", "ring chime"],
    "input_button": ["guest arrival", "call elevator", "reset counter", "start coffee"],
    "person": ["Anna", "Tom", "Maria", "Ben", "Lucy", "David", "mom", "dad", "Sophie", "Jack", "grandpa", "Emma", "Oliver", "Nora"],
    "sensor": ["outdoor temperature", "humidity", "solar power", "battery level", "water usage", "air quality", "power meter", "rain gauge", "CO2 level"],
    "binary_sensor": ["kitchen window", "front door sensor", "motion sensor", "hallway motion", "bathroom window", "patio window", "desk occupancy", "cat flap", "fridge door"],
    "weather": ["London", "Berlin", "Paris", "New York", "Tokyo", "Madrid", "Oslo", "Chicago", "Rome", "Sydney"],
    "todo": ["groceries", "chores", "weekend", "work", "packing", "errands", "camping", "birthday", "holiday", "renovation"],
    "vacuum": ["vacuum", "robot vacuum", "Roomba", "upstairs vacuum", "Rosie", "hoover", "dust buster"],
    "lawn_mower": ["lawn mower", "mower", "robot mower", "garden robot", "Shaun", "grass cutter"],
}

# What people say, narrower than what the templates allow.
LIKELY: dict[str, tuple[int, int]] = {"temperature": (14, 30), "timer_hours": (1, 24), "timer_minutes": (1, 90), "timer_seconds": (5, 90)}

_DEVICE = ("light", "switch", "fan", "media_player", "input_boolean", "climate")
Block = tuple[str, dict[str, Any], tuple[str, ...], list[str]]
EVERYDAY: list[Block] = [
    ("HassTurnOff", {"domain": "light"}, (), [
        "(turn|switch|shut) off [all] [the] (light|lights|lamps) (in|of) [the|my] {area}", "(turn|switch|shut) off [all] [the|my] {area} (light|lights|lamps)",
        "(turn|switch|put) [the|my] {area} (light|lights) off", "(kill|cut) the (light|lights) in [the] {area}", "[the] lights in [the] {area} (off|should go off|can go off)",
        "I (don't|do not) need [the] light[s] in [the] {area} [anymore]", "make it dark in [the] {area}", "lights out in [the] {area}",
        "[the] {area} lights should be off", "nobody is in [the] {area}[,] turn [the|those] lights off",
    ]),
    ("HassTurnOn", {"domain": "light"}, (), [
        "(turn|switch) on [all] [the] (light|lights|lamps) (in|of) [the|my] {area}", "(turn|switch) on [all] [the|my] {area} (light|lights|lamps)",
        "(turn|switch|put) [the|my] {area} (light|lights) on", "I need [some] light in [the] {area}", "it is [too|so] dark in [the] {area}",
        "(give me|I want) [some] light in [the] {area}", "[the] lights in [the] {area} (on|should go on)", "put [the] lights on in [the] {area}",
    ]),
    ("HassTurnOff", {"domain": "fan"}, (), ["(turn|switch|shut) off [the|my] {area} fan", "stop [the] fan in [the] {area}", "[the] fan in [the] {area} should stop"]),
    ("HassTurnOn", {"domain": "fan"}, (), ["(turn|switch) on [the|my] {area} fan", "start [the] fan in [the] {area}", "get [the] {area} fan going"]),
    ("HassTurnOff", {}, _DEVICE, [
        "(turn|switch|shut) off [the|my] {name}", "(turn|switch|shut) [the|my] {name} off", "I (don't|do not) need [the|my] {name} [anymore]", "stop [the|my] {name}",
        "shut down [the] {name}", "(turn|switch|shut) off [the|my] {name} in [the] {area}", "make sure [the|my] {name} is off",
    ]),
    ("HassTurnOn", {}, _DEVICE, [
        "(turn|switch) on [the|my] {name}", "(turn|switch) [the|my] {name} on", "start [up] [the|my] {name}", "I need [the|my] {name} on", "fire up [the] {name}",
        "(turn|switch) on [the|my] {name} in [the] {area}", "get [the|my] {name} going", "make sure [the|my] {name} is on",
    ]),
    ("HassTurnOn", {"domain": "cover"}, (), ["(open|raise) [up] [the] {cover_classes:device_class} in [the] {area}", "I want [the] {area} {cover_classes:device_class} open"]),
    ("HassTurnOff", {"domain": "cover"}, (), ["(close|shut|lower) [the] {cover_classes:device_class} in [the] {area}", "I want [the] {area} {cover_classes:device_class} closed"]),
    ("HassTurnOn", {}, ("cover",), ["(open|raise) [up] [the|my] {name}", "I want [the] {name} open", "let me in, open [the] {name}"]),
    ("HassTurnOff", {}, ("cover",), ["(close|shut) [the|my] {name}", "I want [the] {name} closed", "make sure [the] {name} is (closed|shut)"]),
    ("HassTurnOn", {}, ("lock",), ["lock [up] [the|my] {name}", "I want [the] {name} locked", "make sure [the] {name} is locked"]),
    ("HassTurnOff", {}, ("lock",), ["unlock [the|my] {name}", "I want [the] {name} unlocked"]),
    ("HassTurnOn", {}, ("scene",), ["(set|start|activate|turn on) [the] {name} scene", "set the scene [to|for] {name}", "I want [the] {name} scene"]),
    ("HassLightSet", {"domain": "light"}, (), [
        "(dim|set|bring) [the] lights in [the] {area} (to|down to|at) {brightness}[%| percent]", "(dim|set) [the|my] {area} lights to {brightness}[%| percent]",
        "I want [the] {area} lights at {brightness}[%| percent]", "{brightness}[%| percent] light in [the] {area}", "make [the] light in [the] {area} {brightness}[%| percent] bright",
        "(make|turn|set) [the] lights in [the] {area} [to] {color}", "(make|turn|set|paint) [the|my] {area} lights [to] {color}", "I want {color} light in [the] {area}",
    ]),
    ("HassLightSet", {}, ("light",), [
        "(dim|set|bring) [the|my] {name} (to|down to|at) {brightness}[%| percent]", "I want [the|my] {name} at {brightness}[%| percent]",
        "(make|turn|set) [the|my] {name} [to] {color}", "I want [the|my] {name} (in|to be) {color}",
    ]),
    ("HassClimateSetTemperature", {}, (), [
        "make [the|my] {area} [a bit|a little|slightly|much] (warmer|cooler|colder|hotter)[,] {temperature} [degrees]", "(heat|warm|cool) [up|down] [the|my] {area} to {temperature} [degrees]",
        "I want [it to be] {temperature} degrees in [the] {area}", "(set|turn) [the] (heating|heat|thermostat|temperature) in [the] {area} to {temperature} [degrees]",
        "(set|bring|put) [the] {area} (to|at) {temperature} degrees", "[the] {area} should be {temperature} degrees", "{temperature} degrees in [the] {area}",
        "(set|turn) [the|my] {area} (heating|thermostat|temperature) to {temperature} [degrees]", "it is too (cold|warm|hot) in [the] {area}[,] (make it|set it to) {temperature} [degrees]",
        "(set|turn) [the] (heating|heat|temperature) to {temperature} [degrees]",
    ]),
    ("HassClimateSetTemperature", {}, ("climate",), ["(set|turn|put) [the|my] {name} (to|at) {temperature} [degrees]", "(turn|bring) [the|my] {name} (up|down) to {temperature} [degrees]"]),
    ("HassClimateGetTemperature", {}, (), ["how (warm|cold|hot) is it in [the] {area}", "(what|which) temperature is it in [the] {area}", "what temperature does [the] {area} have"]),
    ("HassStartTimer", {}, (), [
        "(set|start) (a|my) timer (for|of) {timer_minutes:minutes} minutes", "(set|start) (a|my) {timer_minutes:minutes}( |-)minute timer", "timer[ for] {timer_minutes:minutes} minutes",
        "(set|start) (a|my) {timer_hours:hours}( |-)hour timer", "wake me in {timer_minutes:minutes} minutes", "(set|start) a {timer_name:name} timer (for|of) {timer_minutes:minutes} minutes",
        "(set|start) a timer (for|of) {timer_minutes:minutes} minutes for the {timer_name:name}", "count down {timer_minutes:minutes} minutes", "count down {timer_seconds:seconds} seconds",
    ]),
    ("HassStartTimer", {}, (), ["{timer_command:conversation_command} in {timer_minutes:minutes} minutes", "in {timer_minutes:minutes} minutes[,] {timer_command:conversation_command}"]),
    ("HassTimerStatus", {}, (), ["how long (until|till) [the|my] timer (is done|goes off|rings)", "how much longer on [the|my] timer"]),
    ("HassShoppingListAddItem", {}, (), [
        "(put|add) {shopping_list_item:item} (on|to|onto) (my|the|our) shopping list", "we (need|are out of) {shopping_list_item:item}", "remember to buy {shopping_list_item:item}",
        "I need to buy {shopping_list_item:item}", "(buy|get) {shopping_list_item:item}",
    ]),
    ("HassListAddItem", {}, ("todo",), ["(put|add) {todo_list_item:item} (on|to|onto) (my|the|our) {name} [to-do] list"]),
    ("HassMediaSearchAndPlay", {}, (), ["(play|put on) [some] {search_query} in [the] {area}", "(play|put on) [some] {search_query}", "I want to (hear|listen to) {search_query}", "I want to (hear|listen to) {search_query} in [the] {area}"]),
    ("HassMediaSearchAndPlay", {}, ("media_player",), ["(play|put) [some] {search_query} on [the|my] {name}"]),
    ("HassMediaPause", {}, (), ["pause [the] (music|song|movie|show)", "hold [the] (music|movie) [for a moment]", "stop [the] music in [the] {area}"]),
    ("HassMediaUnpause", {}, (), ["(continue|resume) [the] (music|song|movie)", "keep playing"]),
    ("HassMediaNext", {}, (), ["(play the )next (song|track)", "skip (this|the) song", "I (don't|do not) like this song"]),
    ("HassMediaPrevious", {}, (), ["(play the )(previous|last) (song|track)", "play that (song|track) again"]),
    ("HassSetVolume", {}, (), ["(set|turn|put) [the] volume [in [the] {area}] (to|at) {volume:volume_level}[%| percent]", "volume {volume:volume_level}[%| percent]"]),
    ("HassSetVolume", {}, ("media_player",), ["(set|turn|put) [the|my] {name} [volume] (to|at) {volume:volume_level} percent"]),
    ("HassSetVolumeRelative", {"volume_step": "up"}, (), ["(louder|turn it up|make it louder)", "(louder|turn it up) in [the] {area}", "I can't hear (it|the music)"]),
    ("HassSetVolumeRelative", {"volume_step": "down"}, (), ["(quieter|turn it down|make it quieter)", "(quieter|turn it down) in [the] {area}", "(it is|that is|that's) too loud"]),
    ("HassSetPosition", {"domain": "cover"}, (), ["(open|set|close|put) [the] {area} {cover_classes:device_class} to {position}[%| percent]"]),
    ("HassGetWeather", {}, (), ["(how is|how's) the weather [today]", "will it rain [today|tomorrow]", "do I need an umbrella [today]", "(what is|what's) the weather [going to be] like [today|tomorrow]"]),
    ("HassGetState", {"domain": "light"}, (), ["(did I|did we) leave [the|any] lights {on_off_states:state} in [the] {area}", "are [the] lights in [the] {area} {on_off_states:state}"]),
    ("HassGetState", {}, ("lock",), ["(did I|did we) leave [the] {name} {lock_states:state}", "is [the|my] {name} {lock_states:state}"]),
    ("HassGetState", {}, ("cover",), ["(did I|did we) leave [the] {name} {cover_states:state}", "is [the|my] {name} still {cover_states:state}"]),
    ("HassGetState", {}, ("switch", "light", "fan"), ["(did I|did we) leave [the] {name} {on_off_states:state}", "is [the|my] {name} still {on_off_states:state}"]),
    ("HassVacuumCleanArea", {}, (), ["(vacuum|clean|hoover) [the|my] {area} [floor]", "[the] {area} needs (vacuuming|a clean)", "send [the] (robot|vacuum) to [the] {area}"]),
    ("HassVacuumReturnToBase", {}, ("vacuum",), ["(send|return) [the|my] {name} (home|back|to its base|to the dock)", "dock [the] {name}"]),
    ("HassVacuumStart", {}, ("vacuum",), ["(start|run) [the|my] {name}", "let [the|my] {name} clean"]),
    ("HassLawnMowerStartMowing", {}, (), ["(mow|cut) the (grass|lawn)", "the (grass|lawn) needs mowing"]),
    ("HassBroadcast", {}, (), ["(tell everyone|announce|broadcast) [that] {message}", "let everyone know [that] {message}"]),
    ("HassGetCurrentTime", {}, (), ["what time is it", "do you have the time", "what's the time"]),
    ("HassGetCurrentDate", {}, (), ["what day is it [today]", "what is today's date", "which date is it"]),
]
