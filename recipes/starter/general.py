"""Everyday prompts that no specialist is for: what the router learns to leave to the base. Written by hand."""

# Word lists read best as they are written.
# ruff: noqa: E501
# fmt: off

from __future__ import annotations

PROMPTS: tuple[str, ...] = (
    "Hello!", "Hi, how are you?", "Good morning", "Who are you?", "What can you do?", "Thanks a lot, that was helpful.", "Tell me a joke",
    "Tell me a fun fact about octopuses.", "What is the capital of France?", "Who wrote Pride and Prejudice?", "Why is the sky blue?",
    "What is photosynthesis?", "Explain gravity to a child.", "Who was the first person on the moon?", "What is the largest ocean on Earth?",
    "How do plants make food?", "What does DNA stand for?", "Why do cats purr?", "What is the tallest mountain in the world?",
    "Who painted the Mona Lisa?", "What language do people speak in Brazil?", "Where do penguins live?", "What are black holes?",
    "Explain how a rainbow forms.", "What is the difference between a virus and a bacterium?", "Why do leaves change colour in autumn?",
    "What is democracy?", "When did the Second World War end?", "Who discovered penicillin?", "What is the chemical symbol for gold?",
    "How does a microwave oven work?", "What is inflation?", "Why is the ocean salty?", "What is the fastest animal on land?",
    "Who was Cleopatra?", "What are the planets of the solar system?", "What causes earthquakes?", "How do airplanes fly?",
    "What is machine learning?", "What is a neural network?", "Explain the theory of evolution in simple words.", "What is the speed of light?",
    "Write a short poem about the sea.", "Write a haiku about autumn.", "Write a story about a lonely robot.", "Write a limerick about a cat.",
    "Compose a birthday message for my sister.", "Draft an email to my boss asking for a day off.", "Write a thank-you note to my teacher.",
    "Write a short biography of Albert Einstein.", "Help me write a cover letter for a job in a bakery.", "Write a slogan for a coffee shop.",
    "Invent a name for my new puppy.", "Write the opening line of a mystery novel.", "Describe a sunset in three sentences.",
    "Write a dialogue between a knight and a dragon.", "Summarise the plot of Romeo and Juliet.", "Rewrite this sentence politely: give me the report.",
    "Correct the grammar: he go to school every days.", "Give me a synonym for happy.", "What is the opposite of generous?",
    "What does the word serendipity mean?", "Translate good night into Spanish.", "How do you say thank you in Japanese?",
    "How can I sleep better?", "How do I stay motivated?", "Give me three tips for a job interview.", "What should I cook for dinner tonight?",
    "How do I make pancakes?", "What is a good gift for a ten-year-old?", "Recommend a book about history.", "Which movies are good for a rainy day?",
    "How do I remove a coffee stain from a shirt?", "How can I learn to play the guitar?", "What are healthy snacks?", "How do I train my dog to sit?",
    "I feel sad today.", "I am nervous about my exam tomorrow.", "My friend is angry with me. What should I do?", "How do I make new friends?",
    "Should I learn French or Italian?", "What is a good hobby for winter?", "How do I start running?", "How often should I water a cactus?",
    "What should I pack for a trip to Iceland?", "Give me ideas for a birthday party.", "How can I save money?", "What is a good name for a bakery?",
    "List five fruits that start with the letter P.", "Name three famous composers.", "Give me a list of European capitals.",
    "What are the colours of the rainbow?", "Name some animals that live in Australia.", "List the ingredients of a Greek salad.",
    "Can you help me with my homework?", "What do you think about art?", "Do you dream?", "Are you a human?", "What is your favourite colour?",
    "Do you like music?", "Sing me a song.", "Tell me a bedtime story.", "Tell me something interesting.", "Say something nice.",
    "What is the meaning of life?", "Is there life on Mars?", "Could robots ever feel love?", "What will the future look like?",
    "How do I fix a flat tire?", "How do I tie a tie?", "What is yoga good for?", "How does the stock market work?", "What is a mortgage?",
    "Explain the rules of chess.", "How many players are in a football team?", "Who won the first World Cup?", "What is the Olympic motto?",
    "What is Python used for?", "Write a function in Python that reverses a string.", "What is the difference between a list and a tuple?",
    "Explain what an API is.", "What does HTML stand for?", "How do I become a software engineer?", "What is open source software?",
    "Tell me about the Roman Empire.", "Who was Marie Curie?", "Describe life in a medieval village.", "What was the Renaissance?",
    "What is the Great Wall of China?", "Where does chocolate come from?", "How is paper made?", "Why do we yawn?", "What is sleepwalking?",
    "How does memory work?", "What are vitamins good for?", "Why is exercise important?", "What is the heart's job?", "What is a vegan diet?",
    "How do bees make honey?", "What do pandas eat?", "How long do elephants live?", "Are spiders insects?", "Why do birds migrate?",
    "Imagine a conversation between the sun and the moon.", "Pretend you are a pirate and greet me.", "Give me a riddle.", "What rhymes with orange?",
    "Who is the author of The Little Prince?", "What is the currency of Sweden?", "Which river flows through Cairo?", "What is the smallest country?",
    "Please summarise what friendship means.", "What makes a good leader?", "How do I write a good essay?", "What are the benefits of reading?",
    "Give me a quote about courage.", "What is a metaphor? Give an example.", "Explain irony.", "Bye, see you later!",
)

HELD_OUT: tuple[str, ...] = (
    "Hey there, nice to meet you", "What is your name?", "Make me laugh", "What is the capital of Canada?", "Who composed the Moonlight Sonata?",
    "Why does ice float on water?", "How do vaccines work?", "What is the longest river in Africa?", "Explain quantum physics simply.",
    "Write a poem about my grandmother's kitchen.", "Write a short letter to the city council about the park.", "Describe your perfect holiday.",
    "Give me a synonym for brave.", "Translate I love you into French.", "How can I get rid of hiccups?", "How do I bake bread?",
    "Suggest a movie for a family evening.", "I am bored, what should I do?", "How do I ask for a raise?", "Which pet is best for a small flat?",
    "Name four kinds of pasta.", "What are the seven wonders of the world?", "Can you feel pain?", "Tell me about the history of tea.",
    "How does a bicycle stay upright?", "What is a blockchain?", "Explain recursion to a beginner.", "Who was Nelson Mandela?",
    "Why do we dream?", "How do whales breathe?", "Give me a tongue twister.", "What is the moral of the tortoise and the hare?",
    "Is it healthy to skip breakfast?", "What are good questions to ask on a first date?", "Write a two-line ad for running shoes.",
    "What is the difference between weather and climate?", "How do volcanoes form?", "Who invented the telephone?", "Thank you, goodbye", "What is jazz?",
)
