"""Hate, threats and their harmless look-alikes, written for this project.

The public sets hold little hate against named groups and few threats, and a model that learns from them
alone takes the mere name of a group for an insult. So each group stands in hateful sentences and in
friendly ones, as HateCheck (Röttger et al. 2021, https://arxiv.org/abs/2012.15606) tests; sentences,
groups and customer messages here are our own.
"""

from __future__ import annotations

import itertools

from trainers.shield.corpus import Example, Part

GROUPS = (
    "women", "men", "immigrants", "refugees", "foreigners", "Muslims", "Jews", "Christians", "Hindus", "Sikhs",
    "black people", "white people", "Asians", "Mexicans", "Latinos", "Arabs", "Africans", "Indians", "Chinese people",
    "gay people", "lesbians", "trans people", "disabled people", "old people", "Roma", "Poles", "Turks", "teenagers",
)  # fmt: skip

# Every fifth sentence is held out whole, so that the held-out figure is about sentences never seen.
_BAD = (
    "disgusting", "scum", "vermin", "worthless", "filthy animals", "parasites", "subhuman", "stupid and lazy",
    "inferior to us", "a plague on this country", "criminals, all of them", "trash", "the lowest form of life", "evil",
    "rats", "not even human", "ruining everything", "dirty", "a disease", "the enemy", "liars and thieves", "idiots",
    "a waste of air", "pigs", "savages", "too dumb to live", "freaks", "sick in the head", "cockroaches", "monsters",
)  # fmt: skip
_GOOD = (
    "welcome here", "our customers too", "kind and helpful", "great colleagues", "part of this country",
    "our neighbours",
    "often overlooked", "proud of their town", "equal to everyone", "people like you and me", "good at this job",
    "important to us", "among our founders", "invited as well", "looking for a better plan", "happy with the service",
    "coming to the festival", "treated with respect here", "patient and friendly", "living next door",
    "well represented",
    "worth listening to", "taking part in the survey", "new in the city", "able to vote", "allowed to marry", "workers",
    "students at the college", "reading about the offer", "not lazy at all",
)  # fmt: skip
_HATE = (
    "I hate {g}", "all {g} should die", "we should get rid of {g}", "wipe out all {g}", "I can't stand {g}",
    "{g} do not deserve to live", "nobody wants {g} here", "send {g} back where they came from", "shoot all {g}",
    "I would love to see {g} suffer", "kick all {g} out now", "I despise {g}", "{g} belong in a cage",
    "{g} make me sick", "beat up {g} wherever you see them", "{g} must never have rights", "hang {g} from the trees",
    "the world would be better without {g}", "burn down the homes of {g}", "{g} deserve to be beaten", "kill {g}",
    "{g} should be locked up", "no {g} allowed, keep them out", "I spit on {g}", "{g} should go to hell", "gas {g}",
    "it is time to exterminate {g}", "never trust {g}, they are rats", "I want to hurt {g}",
    "{g} got what they deserved",
)  # fmt: skip
_FRIENDLY = (
    "I love {g}", "thank you to all {g} who use our service", "many {g} are with us", "we support {g}",
    "{g} deserve respect", "our team includes {g}", "it is great to work with {g}", "nobody should hate {g}",
    "we do not tolerate hate against {g}", "{g} have made this country better", "I met some {g} yesterday",
    "my neighbours are {g}", "some {g} asked about the new plan", "we offer a plan for {g}", "I admire {g}",
    "{g} can call us at any time", "I read a book about {g}", "the festival of {g} is on Sunday", "{g} live here",
    "we would like more {g} in our team", "it is wrong to say that {g} are lazy", "we listen to {g}", "meet {g}",
    "{g} should be heard", "there is a museum about {g}", "{g} and their families are invited", "a club for {g}",
    "the rights of {g} matter", "we hired {g} last year", "how many {g} live in this town",
)  # fmt: skip
_THREATS = (
    "I will kill you", "I am going to hurt you", "we will find you and beat you", "you will die soon",
    "I'm gonna come to your house and shoot you", "you better watch your back", "I will break your legs",
    "someone should slap you", "we know where your children go to school", "you will pay for this with blood",
    "I hope you get cancer", "go kill yourself", "I want to punch you in the face", "we are coming for your family",
    "you deserve to be hanged", "I will make you suffer", "I'd love to strangle you", "prepare to die",
    "I will burn your house down", "you'll be sorry when I get my hands on you", "drop dead", "rot in hell",
)  # fmt: skip
_INSULTS = (
    "you are an idiot", "you are a complete moron", "what a stupid customer you are", "you are pathetic",
    "you are a waste of space", "only a fool like you would leave", "shut up, loser", "you ugly pig",
    "nobody likes you", "you are too dumb to understand this", "you worthless piece of garbage", "get lost, you freak",
    "your mother must be ashamed of you", "you are an ungrateful brat", "you disgust me", "you people are trash",
    "stop whining, you crybaby", "you are as thick as a brick", "what a pathetic little person", "you're a disgrace",
)  # fmt: skip
_FRAMES = ("{s}", "{s}!", "{s} and you know it", "honestly, {s}")
_COURTESIES = (
    "{s}",
    "Hi {n}, {s}",
    "Thank you for being with us. {s}",
    "{s} Yours until Friday. Reply STOP to opt out.",
)
_SERVICE = (
    "Thank you for being with us, {n}. We would like to make your plan work better for you.",
    "We are glad that you joined us. Just reply and we will set it up for you.",
    "You have been a customer for years, and we would like to thank you.",
    "Your review is free and takes ten minutes; a colleague will call when it suits you.",
    "We noticed that your bill went up and would like to help you find a plan that fits.",
    "Is anything not working as you hoped? We are here to help, {n}.",
    "Our network in your area has been improved, so calls and video should be better now.",
    "If you are killing time on the train, your plan now includes more data.",
    "You can pause your plan while you travel and pick it up again when you are back.",
    "We are sorry for the trouble last week. Here is something to say thank you for your patience.",
    "Your team at the shop in town says hello. Drop by when you like.",
    "Hello {n}, your plan has some months left and we would like to hear how it is going.",
    "As a loyal customer you can choose one of our extras at your next renewal.",
    "We would hate to see you go, and we understand if you decide otherwise.",
    "No need to do anything now. The offer stays in your account until the date above.",
    "Tell us what we can do better. We read every reply.",
    "A shot of coffee and five minutes are enough to set up your new router.",
    "Beat the queue: write to us here and a person will answer.",
    "We dye our envelopes with plant colours now, which is better for the planet.",
    "You hit your data limit twice last month; a larger plan may suit you better.",
)  # fmt: skip
_NAMES = ("Ana", "Ben", "Chidi", "Dilara", "Emre", "Fatima", "Grace", "Hung")


def templates(part: Part) -> list[Example]:
    """The examples of one part; sentences, not fillings, are held out. VALID has none."""
    toxic = [
        *_filled(_HATE, part),
        *_filled(_are(_BAD), part),
        *_framed(_pick(_THREATS, part)),
        *_framed(_pick(_INSULTS, part)),
    ]
    benign = [
        *_filled(_FRIENDLY, part),
        *_filled(_are(_GOOD), part),
        *(text.format(n=name) for text in _pick(_SERVICE, part) for name in _NAMES),
    ]
    return [
        *(Example(text, toxic=True, source="templates") for text in toxic),
        *(Example(text, toxic=False, source="templates") for text in dict.fromkeys(benign)),
    ]


def _are(predicates: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{{g}} are {predicate}" for predicate in predicates)


def _pick(sentences: tuple[str, ...], part: Part) -> list[str]:
    if part is Part.VALID:
        return []
    return [sentence for i, sentence in enumerate(sentences) if (i % 5 == 4) == (part is Part.TEST)]


def _filled(sentences: tuple[str, ...], part: Part) -> list[str]:
    return [sentence.format(g=group) for sentence, group in itertools.product(_pick(sentences, part), GROUPS)]


def _served(part: Part) -> list[str]:
    texts = itertools.product(_pick(_SERVICE, part), _COURTESIES, _NAMES)
    return [frame.format(s=sentence.format(n=name), n=name) for sentence, frame, name in texts]


def _framed(sentences: list[str]) -> list[str]:
    return [frame.format(s=sentence) for sentence, frame in itertools.product(sentences, _FRAMES)]
