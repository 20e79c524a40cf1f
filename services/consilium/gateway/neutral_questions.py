"""Questions that belong to no adapter: what is nearer to one of these than to an adapter's own is answered by the plain model.

Written for this purpose, in English and Russian, so that likeness has something to be compared with: cosines of one embedding model lie higher than those of
another, and a threshold alone would have to be set anew for each.
"""

from __future__ import annotations

from typing import Final

NEUTRAL: Final[tuple[str, ...]] = (
    "Hello, how are you?",
    "What can you do?",
    "Tell me a joke.",
    "What is the capital of France?",
    "What time is it in Tokyo?",
    "Write a short poem about autumn.",
    "Translate this sentence into German.",
    "Thank you, that helped.",
    "Who won the match yesterday?",
    "What should I cook for dinner tonight?",
    "Write a Python function that reverses a string.",
    "Summarise this text in two sentences.",
    "How do I reset my password?",
    "What is 17 times 23?",
    "Recommend a good film.",
    "How old is the universe?",
    "Правда ли, что сегодня пятница?",
    "Привет, как дела?",
    "Что ты умеешь?",
    "Расскажи анекдот.",
    "Какая столица у Франции?",
    "Переведи это предложение на английский.",
    "Спасибо, это помогло.",
    "Что приготовить на ужин?",
    "Напиши функцию на Python, которая разворачивает строку.",
    "Перескажи этот текст двумя предложениями.",
    "Как сбросить пароль?",
    "Сколько будет семнадцать умножить на двадцать три?",
    "Посоветуй хороший фильм.",
    "Сколько лет Вселенной?",
    "Какая завтра погода?",
    "Помоги написать письмо начальнику.",
)
