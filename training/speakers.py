"""Who speaks: the voices of Debian's packages, what they are given to say, and which are kept for the test set."""

from __future__ import annotations

from typing import Literal, NamedTuple

Sex = Literal["m", "f"]

ENGLISH = (
    "Oh the harbour lights are burning low, and I am leaving on the morning train. "
    "Carry me over the silver river, sing me a song about summer rain.",
    "Nobody told me the night could be so long, I was dancing alone on the floor. "
    "Turn up the radio, give me one reason, tell me you love me and nothing more.",
    "We are the fire, we are the thunder, break down the wall and run away! "
    "Stand up and shout it, never surrender, nobody owns me, not today!",
    "Step to the corner with a pocket full of paper, talk about it now and never think about it later. "
    "Tick tock, check the clock, better get it going, city never sleeping and the traffic never slowing.",
)
ITALIAN = (
    "La luna dorme sopra il mare e la mia voce vola via. Dimmi che torni domani sera, amore, anima mia.",
    "Corri lontano, corri nel vento, non ti fermare mai. Una canzone nella notte, solo tu la sentirai.",
)
FINNISH = (
    "Laulan sinulle aamun laulun, kun aurinko nousee yli veden. Tuuli kuljettaa sanani kauas, maailman ääriin asti.",
    "Hiljainen tie vie metsän halki, lumi peittää vanhan talon. Odota minua illan tullen, tuon sinulle valon.",
)
CZECH = (
    "Za horou zpívá bílý pták a řeka nese naše jména. Vrať se mi, lásko, ještě dnes, zima je dlouhá, cesta je změněná.",
    "Hej, kamarádi, zahrajte nám, noc je mladá a my taky. Ať se celé město dívá, jak letíme nad oblaky.",
)
CATALAN = ("La mar em canta una nova tonada, la lluna balla damunt la teulada. Vine amb mi, que la nit ens espera.",)
HINDI = ("मेरा दिल गाता है नदी के किनारे, तुम कहाँ हो मेरे साथी। रात भर चाँद चलता रहा, सुबह की हवा तुम्हें बुलाती।",)
RUSSIAN = (
    "Над рекой поёт весенний ветер, и дорога далека. Подожди меня на мосту, туда, где светят облака.",
    "Ночь темна, но город не уснёт, мы танцуем до утра. Слышишь, сердце бьётся и зовёт, уходить ещё не пора.",
)
SPANISH = (
    "La noche canta en mi ventana, baila conmigo hasta la mañana. Dame tu mano, vida mía, que ya se acerca el día.",
)
GERMAN = ("Leise singt der Wind am Meer, und ich warte auf den Morgen. Komm nach Hause, komm zu mir, lass die Sorgen.",)
FRENCH = ("La nuit descend sur la rivière et je chante encore pour toi. Donne-moi la main, la lumière reviendra.",)
PORTUGUESE = ("O sol caiu no meu quintal e eu cantei pra você voltar. Vem dançar comigo agora, deixa a lua nos levar.",)
SWEDISH = ("Natten faller över sjön och jag sjunger för dig igen. Kom och dansa till gryningen, min allra bästa vän.",)
POLISH = ("Nad rzeką wstaje złoty dzień, a ja śpiewam ci od rana. Zostań ze mną jeszcze chwilę, moja droga ukochana.",)
DUTCH = ("De avond valt over het water en ik zing een lied voor jou. Blijf nog even, dans met mij, ik hou van jou.",)
PROMPTS = ("demo-instruct", "demo-congrats", "priv-callee-options", "conf-adminmenu-18")
"""What Asterisk's speakers say in every language; the words do not matter, people's throats do."""


class Voice(NamedTuple):
    """One speaker; `texts` are words to speak, or prompts that Asterisk's speakers have recorded."""

    name: str
    program: Literal["festival", "flite", "espeak-ng", "asterisk"]
    voice: str
    sex: Sex
    texts: tuple[str, ...]
    package: str
    licence: str
    heldout: bool = False


ESPEAK: tuple[tuple[str, Sex, tuple[str, ...], bool], ...] = (
    ("en-us+f2", "f", ENGLISH[:2], True),
    ("en-gb+m3", "m", ENGLISH[2:], True),
    ("es-419+f2", "f", SPANISH, True),
    ("en-us+f5", "f", ENGLISH[1:3], False),
    ("en-us+m7", "m", ENGLISH[2:], False),
    ("en-gb-scotland+m8", "m", ENGLISH[:2], False),
    ("it+f4", "f", ITALIAN, False),
    ("es+m1", "m", SPANISH, False),
    ("de+f1", "f", GERMAN, False),
    ("fr-fr+m5", "m", FRENCH, False),
    ("pt-br+f3", "f", PORTUGUESE, False),
    ("sv+m2", "m", SWEDISH, False),
    ("pl+Alicia", "f", POLISH, False),
    ("nl+m4", "m", DUTCH, False),
    ("ru+Annie", "f", RUSSIAN, False),
    ("de+Michael", "m", GERMAN, False),
)
"""Language and variant, sex, texts, whether held out."""

VOICES: tuple[Voice, ...] = (
    Voice("kal", "festival", "kal_diphone", "m", ENGLISH, "festvox-kallpc16k", "CMU (BSD-like)"),
    Voice("ked", "festival", "ked_diphone", "m", ENGLISH, "festvox-kdlpc16k", "CMU (BSD-like)", heldout=True),
    Voice("slt-hts", "festival", "cmu_us_slt_arctic_hts", "f", ENGLISH, "festvox-us-slt-hts", "BSD-3-clause"),
    Voice("lp", "festival", "lp_diphone", "f", ITALIAN, "festvox-italp16k", "GPL-2+"),
    Voice("pc", "festival", "pc_diphone", "m", ITALIAN, "festvox-itapc16k", "GPL-2+"),
    Voice("lj", "festival", "suo_fi_lj_diphone", "f", FINNISH, "festvox-suopuhe-lj", "LGPL-2.1"),
    Voice("mv", "festival", "hy_fi_mv_diphone", "m", FINNISH, "festvox-suopuhe-mv", "LGPL-2.1", heldout=True),
    Voice("dita", "festival", "czech_dita", "f", CZECH, "festvox-czech-dita", "GPL-3"),
    Voice("machac", "festival", "czech_machac", "m", CZECH, "festvox-czech-machac", "GPL-3", heldout=True),
    Voice("krb", "festival", "czech_krb", "f", CZECH, "festvox-czech-krb", "GPL-3"),
    Voice("ph", "festival", "czech_ph", "m", CZECH, "festvox-czech-ph", "GPL-2"),
    Voice("ona", "festival", "upc_ca_ona_hts", "f", CATALAN, "festvox-ca-ona-hts", "LGPL-2.1+"),
    Voice("nsk", "festival", "hindi_NSK_diphone", "m", HINDI, "festvox-hi-nsk festival-hi", "GPL-2+", heldout=True),
    Voice("nsh", "festival", "msu_ru_nsh_clunits", "m", RUSSIAN, "festvox-ru", "BSD-like"),
    Voice("flite-kal", "flite", "kal16", "m", ENGLISH[2:], "flite", "CMU (BSD-like)"),
    Voice("awb", "flite", "awb", "m", ENGLISH, "flite", "CMU (BSD-like)"),
    Voice("rms", "flite", "rms", "m", ENGLISH, "flite", "CMU (BSD-like)", heldout=True),
    Voice("slt", "flite", "slt", "f", ENGLISH[1:], "flite", "CMU (BSD-like)"),
    *(Voice(f"espeak-{v}", "espeak-ng", v, sex, texts, "espeak-ng", "GPL-3+", held) for v, sex, texts, held in ESPEAK),
    Voice("allison-en", "asterisk", "en_US_f_Allison", "f", PROMPTS, "asterisk-core-sounds-en-g722", "CC-BY-SA-3.0"),
    Voice("allison-es", "asterisk", "es_MX_f_Allison", "f", PROMPTS, "asterisk-core-sounds-es-g722", "CC-BY-SA-3.0"),
    Voice("june", "asterisk", "fr_CA_f_June", "f", PROMPTS, "asterisk-core-sounds-fr-g722", "CC-BY-SA-3.0"),
    Voice("carlo", "asterisk", "it_IT_m_Carlo", "m", PROMPTS, "asterisk-core-sounds-it-g722", "CC-BY-SA-3.0"),
    Voice("maxim", "asterisk", "ru_RU_f_IvrvoiceRU", "f", PROMPTS, "asterisk-core-sounds-ru-g722", "CC-BY-3.0", True),
)
WEIGHTS = {"asterisk": 4.0, "festival": 2.0, "flite": 2.0, "espeak-ng": 1.0}
"""How often a voice is chosen: people most, formant synthesis least."""
