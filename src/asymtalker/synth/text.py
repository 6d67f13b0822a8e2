"""Sentences for synthetic speech, by espeak-ng language.

Every sentence is from a work whose author died before 1940 (the work is named above its lines; quoted in the original
language, spelling modernised where espeak-ng needs it), a traditional pangram, or written for this file: numbers and
tongue twisters that bring in the closures, lip-teeth sounds and rounded vowels that running prose has too few of.
"""

ENGLISH = (
    # Lewis Carroll, Alice's Adventures in Wonderland (1865), Through the Looking-Glass (1871)
    "Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing to do.",
    "There was nothing so very remarkable in that; nor did Alice think it so very much out of the way.",
    "Curiouser and curiouser! cried Alice.",
    "Would you tell me, please, which way I ought to go from here?",
    "We're all mad here. I'm mad. You're mad.",
    "Begin at the beginning, the King said gravely, and go on till you come to the end: then stop.",
    "Oh dear! Oh dear! I shall be late!",
    "The time has come, the Walrus said, to talk of many things: of shoes, and ships, and sealing wax.",
    "It's a poor sort of memory that only works backwards, the Queen remarked.",
    "What is the use of a book, thought Alice, without pictures or conversations?",
    # Jane Austen, Pride and Prejudice (1813), Emma (1815), Persuasion (1817)
    "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of a "
    "wife.",
    "My dear Mister Bennet, said his lady to him one day, have you heard that Netherfield Park is let at last?",
    "You have delighted us long enough.",
    "I could easily forgive his pride, if he had not mortified mine.",
    "Emma Woodhouse, handsome, clever, and rich, with a comfortable home and happy disposition.",
    "I may have lost my heart, but not my self control.",
    "You pierce my soul. I am half agony, half hope.",
    # Charles Dickens, A Tale of Two Cities (1859), A Christmas Carol (1843)
    "It was the best of times, it was the worst of times.",
    "It is a far, far better thing that I do, than I have ever done.",
    "Marley was dead, to begin with. There is no doubt whatever about that.",
    "I wear the chain I forged in life, replied the ghost.",
    # Herman Melville, Moby Dick (1851); Mary Shelley, Frankenstein (1818); H. D. Thoreau, Walden (1854)
    "Call me Ishmael. Some years ago, never mind how long precisely.",
    "I thought I would sail about a little and see the watery part of the world.",
    "Beware; for I am fearless, and therefore powerful.",
    "I went to the woods because I wished to live deliberately.",
    # Arthur Conan Doyle, The Adventures of Sherlock Holmes (1892); Oscar Wilde; Mark Twain; Edgar Allan Poe
    "To Sherlock Holmes she is always the woman.",
    "You see, but you do not observe. The distinction is clear.",
    "I can resist everything except temptation.",
    "The truth is rarely pure and never simple.",
    "You don't know about me without you have read a book by the name of The Adventures of Tom Sawyer.",
    "Once upon a midnight dreary, while I pondered, weak and weary.",
    # William Shakespeare
    "To be, or not to be, that is the question.",
    "Shall I compare thee to a summer's day?",
    "All the world's a stage, and all the men and women merely players.",
    # Mother Goose
    "Peter Piper picked a peck of pickled peppers.",
    "Humpty Dumpty sat on a wall, Humpty Dumpty had a great fall.",
    "Baa, baa, black sheep, have you any wool?",
    # Written for this file; traditional pangrams
    "Bob's big black bag bumped my mum's plum pie off the table.",
    "Five very fine foxes viewed the valley from the far fence.",
    "You choose the blue shoes, and I will move through the room too.",
    "The quick brown fox jumps over the lazy dog, but why would it?",
    "Pack my box with five dozen large vases of quartz.",
    "She sells fresh fish; he mends old maps with paste and paper.",
    "Please leave a message after the beep, and we will call you back before Monday.",
    "Good morning, everybody. Thank you so much for coming today.",
    "Wow! What wonderful weather we were having on Wednesday.",
    "The mayor remembered a warm summer, many moments, and some music.",
    "My phone number is five five five, eight one four, oh nine two six.",
    "The train to Bath leaves platform fourteen at twenty to seven.",
    "Put the boat by the buoy and throw the yellow rope over.",
    "Each change of the bridge's edge made the judge chuckle.",
    "They thought that those three brothers breathed through thick cloth.",
    "Ah, no. Maybe. Oh, perhaps you are right about that.",
    "We measure pleasure and leisure with usual precision.",
)

GERMAN = (
    # Brüder Grimm, Kinder- und Hausmärchen (1812-1857)
    "In den alten Zeiten, wo das Wünschen noch geholfen hat, lebte ein König, dessen Töchter waren alle schön.",
    "Spieglein, Spieglein an der Wand, wer ist die Schönste im ganzen Land?",
    "Es war einmal mitten im Winter, und die Schneeflocken fielen wie Federn vom Himmel herab.",
    "Knusper, knusper, Knäuschen, wer knuspert an meinem Häuschen?",
    "Der Wind, der Wind, das himmlische Kind.",
    "Großmutter, was hast du für große Ohren? Dass ich dich besser hören kann.",
    "Heute back ich, morgen brau ich, übermorgen hol ich der Königin ihr Kind.",
    "Rapunzel, Rapunzel, lass mir dein Haar herunter.",
    # Goethe, Faust (1808), Erlkönig (1782); Schiller; Kant; Kafka, Die Verwandlung (1915)
    "Habe nun, ach, Philosophie, Juristerei und Medizin durchaus studiert, mit heißem Bemühn.",
    "Wer reitet so spät durch Nacht und Wind? Es ist der Vater mit seinem Kind.",
    "Das also war des Pudels Kern.",
    "Festgemauert in der Erden steht die Form, aus Lehm gebrannt.",
    "Als Gregor Samsa eines Morgens aus unruhigen Träumen erwachte, fand er sich in seinem Bett verwandelt.",
    # Written for this file; traditional pangrams
    "Fünf braune Pferde pflügen am frühen Morgen das feuchte Feld.",
    "Guten Abend, meine Damen und Herren, wir begrüßen Sie herzlich.",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Deich.",
    "Meine Mama mag Milch, mein Papa mag Bier und Brot.",
    "Siebenundzwanzig Schüler übten schöne Lieder.",
)

FRENCH = (
    # Jules Verne, Le Tour du monde (1872), Vingt mille lieues (1870)
    "En l'année 1872, la maison portant le numéro sept de Savile Row était habitée par Phileas Fogg.",
    "L'année 1866 fut marquée par un événement bizarre, un phénomène inexpliqué.",
    "La mer est tout! Elle couvre les sept dixièmes du globe terrestre.",
    "Tout ce qu'un homme est capable d'imaginer, d'autres hommes seront capables de le réaliser.",
    # Perrault; La Fontaine; Molière; Hugo; Flaubert; Proust, Du côté de chez Swann (1913)
    "Il était une fois une petite fille de village, la plus jolie qu'on eût su voir.",
    "Tire la chevillette, la bobinette cherra.",
    "Anne, ma sœur Anne, ne vois-tu rien venir?",
    "Maître Corbeau, sur un arbre perché, tenait en son bec un fromage.",
    "Rien ne sert de courir; il faut partir à point.",
    "Que diable allait-il faire dans cette galère?",
    "Demain, dès l'aube, à l'heure où blanchit la campagne, je partirai.",
    "Longtemps, je me suis couché de bonne heure.",
    "Il faut cultiver notre jardin.",
    # Written for this file; traditional pangrams
    "Bonjour à tous, merci beaucoup d'être venus ce matin.",
    "Portez ce vieux whisky au juge blond qui fume.",
    "Un bon pain blanc, un peu de beurre, et deux œufs frais.",
    "Ma voiture bleue fait du bruit quand il pleut, vous voyez?",
    "Quatre-vingt-dix-sept poules pondent sous le pont.",
)

SPANISH = (
    # Miguel de Cervantes, Don Quijote de la Mancha (1605, 1615)
    "En un lugar de la Mancha, de cuyo nombre no quiero acordarme, no ha mucho tiempo que vivía un hidalgo.",
    "La libertad, Sancho, es uno de los más preciosos dones que a los hombres dieron los cielos.",
    "Con la iglesia hemos dado, Sancho.",
    "El que lee mucho y anda mucho, ve mucho y sabe mucho.",
    "Mire vuestra merced, respondió Sancho, que aquellos no son gigantes, sino molinos de viento.",
    # Calderón; Bécquer; Rubén Darío; Benito Pérez Galdós
    "¿Qué es la vida? Un frenesí. ¿Qué es la vida? Una ilusión.",
    "Que toda la vida es sueño, y los sueños, sueños son.",
    "Volverán las oscuras golondrinas en tu balcón sus nidos a colgar.",
    "¿Qué es poesía?, dices mientras clavas en mi pupila tu pupila azul.",
    "La princesa está triste. ¿Qué tendrá la princesa?",
    "Juventud, divino tesoro, ya te vas para no volver.",
    # Written for this file; traditional pangrams
    "Buenas tardes a todos y muchas gracias por venir.",
    "Pablo compró pan, vino, pimientos y un bonito mapa.",
    "El veloz murciélago comía feliz cardillo y kiwi.",
    "Mi mamá me mima, y yo amo a mi mamá.",
    "Setenta y cinco faroles alumbran la plaza mayor.",
)

ITALIAN = (
    # Dante Alighieri, Divina Commedia
    "Nel mezzo del cammin di nostra vita mi ritrovai per una selva oscura, che la diritta via era smarrita.",
    "Lasciate ogni speranza, voi ch'entrate.",
    "Amor, ch'a nullo amato amar perdona, mi prese del costui piacer sì forte.",
    "Fatti non foste a viver come bruti, ma per seguir virtute e canoscenza.",
    "E quindi uscimmo a riveder le stelle.",
    "L'amor che move il sole e l'altre stelle.",
    # Collodi, Le avventure di Pinocchio (1883); Manzoni, I promessi sposi (1827); Leopardi
    "C'era una volta un re, diranno subito i miei piccoli lettori. No, ragazzi, avete sbagliato.",
    "C'era una volta un pezzo di legno.",
    "Quel ramo del lago di Como, che volge a mezzogiorno, tra due catene non interrotte di monti.",
    "Sempre caro mi fu quest'ermo colle.",
    "E il naufragar m'è dolce in questo mare.",
    # Written for this file; traditional pangrams
    "Buongiorno a tutti, grazie mille di essere qui.",
    "Mia mamma prepara bene il pane e il buon vino.",
    "Pranzo d'acqua fa volti sghembi.",
    "Settantasette buoi bevono al fiume profondo.",
)

PORTUGUESE = (
    # Camões, Os Lusíadas (1572)
    "As armas e os barões assinalados, que da ocidental praia lusitana, por mares nunca de antes navegados.",
    "Amor é fogo que arde sem se ver, é ferida que dói e não se sente.",
    "Mudam-se os tempos, mudam-se as vontades.",
    # Machado de Assis, Memórias póstumas (1881), Dom Casmurro (1899); Eça de Queirós, Os Maias (1888)
    "Ao verme que primeiro roeu as frias carnes do meu cadáver dedico estas memórias.",
    "Uma noite destas, vindo da cidade para o Engenho Novo, encontrei no trem um rapaz aqui do bairro.",
    "Não tive filhos, não transmiti a nenhuma criatura o legado da nossa miséria.",
    "A casa que os Maias vieram habitar em Lisboa era conhecida na vizinhança.",
    # Gonçalves Dias
    "Minha terra tem palmeiras, onde canta o sabiá.",
    # Written for this file
    "Bom dia a todos, muito obrigado por terem vindo.",
    "O pato bebe um pouco de água e bate as penas.",
    "Vovó comprou vinte e oito maçãs vermelhas na feira.",
    "Amanhã bem cedo vamos embora, mãe.",
)

DUTCH = (
    # Multatuli, Max Havelaar (1860); Frederik van Eeden, De kleine Johannes (1887); Louis Couperus, Eline Vere (1889)
    "Ik ben makelaar in koffie, en woon op de Lauriergracht, nummer zevenendertig.",
    "Ik zal u iets van de kleine Johannes vertellen.",
    "Het heeft veel van een sprookje, mijn verhaal, maar het is toch alles werkelijk zo gebeurd.",
    "Men verdrong zich in de eetzaal, die in een kleedkamer was herschapen.",
    # Herman Gorter, Mei (1889); Willem Kloos
    "Een nieuwe lente en een nieuw geluid.",
    "Ik ween om bloemen, in de knop gebroken.",
    # Written for this file
    "Goedemorgen allemaal, fijn dat jullie er zijn.",
    "De blauwe boot vaart vroeg voorbij de brug.",
    "Papa bakt mooie pannenkoeken met boter en appel.",
    "Vierentwintig vogels vlogen over het huis van de buurvrouw.",
    "Pas op, want de poes woont nu in de put.",
)

POLISH = (
    # Adam Mickiewicz, Pan Tadeusz (1834)
    "Litwo! Ojczyzno moja! Ty jesteś jak zdrowie; ile cię trzeba cenić, ten tylko się dowie, kto cię stracił.",
    "I ja tam z gośćmi byłem, miód i wino piłem.",
    # Henryk Sienkiewicz, Quo vadis (1896); Bolesław Prus, Lalka (1890)
    "Petroniusz obudził się zaledwie koło południa i jak zwykle zmęczony bardzo.",
    "Były noce duszne i parne.",
    "W początkach roku 1878 świat polityczny zajmował się pokojem.",
    # Aleksander Fredro, Zemsta (1834)
    "Niech się dzieje wola nieba, z nią się zawsze zgadzać trzeba.",
    # Written for this file
    "Dzień dobry państwu, bardzo dziękuję za przybycie.",
    "Mama ma małego psa, a babcia ma pięć białych kotów.",
    "Po południu pójdziemy powoli nad wodę.",
    "Szczupły strażnik wcześnie włączył trzy trzeszczące wiatraczki.",
    "Osiemdziesiąt dwa wozy jechały przez wieś.",
)

SENTENCES: dict[str, tuple[str, ...]] = {
    "en-us": ENGLISH,
    "en-gb-x-rp": ENGLISH,
    "en-gb-scotland": ENGLISH,
    "de": GERMAN,
    "fr": FRENCH,
    "es": SPANISH,
    "es-419": SPANISH,
    "it": ITALIAN,
    "pt": PORTUGUESE,
    "pt-br": PORTUGUESE,
    "nl": DUTCH,
    "pl": POLISH,
}
"""Sentences by the espeak-ng language that reads them."""
