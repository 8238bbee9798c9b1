#!/usr/bin/env python3
"""The conversations that fetch_corpus.py makes: reproducible, and their answers are in their passages."""
import importlib.util
import pathlib
import re
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).resolve().parents[3] / "tools/spot_distill/fetch_corpus.py"
spec = importlib.util.spec_from_file_location("fetch_corpus", SCRIPT)
fetch_corpus = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fetch_corpus)

TEXT = "\n".join(f"Line {n} of the text tells of matter {n * 7919 % 1009} and of nothing else." for n in range(400))


def parts(chat):
    match = re.fullmatch(r"<\|im_start\|>user\n(.*)<\|im_end\|>\n<\|im_start\|>assistant\n(.*)<\|im_end\|>\n", chat, re.S)
    return match.group(1), match.group(2)


class Conversations(unittest.TestCase):
    def test_the_same_seed_gives_the_same_conversation(self):
        for seed in range(30):
            self.assertEqual(fetch_corpus.chat_of(TEXT, seed), fetch_corpus.chat_of(TEXT, seed))
        self.assertGreater(len({fetch_corpus.chat_of(TEXT, seed) for seed in range(30)}), 25)

    def test_numbers_of_facts_stand_in_the_passage(self):
        for seed in range(0, 90, 3):
            question, answer = parts(fetch_corpus.chat_of(TEXT, seed))
            for number in re.findall(r"\d+", answer):
                self.assertIn(number, question)

    def test_variables_of_an_answer_lead_to_its_value(self):
        for seed in range(1, 90, 3):
            question, answer = parts(fetch_corpus.chat_of(TEXT, seed))
            value = re.search(r"have the value (\d+)", question).group(1)
            values = {}
            for name, right in re.findall(r"^VAR (X\d+) = (.*)$", question, re.M):
                values[name] = values[right.removeprefix("VAR ")] if right.startswith("VAR ") else right
            self.assertEqual(sorted(answer.split(", ")), sorted(name for name in values if values[name] == value))

    def test_repeated_lines_are_the_passages(self):
        for seed in range(2, 90, 3):
            question, answer = parts(fetch_corpus.chat_of(TEXT, seed))
            self.assertIn(answer, question.splitlines())

    def test_short_texts_give_none(self):
        self.assertIsNone(fetch_corpus.chat_of("one\ntwo\n", 0))

    def test_a_folder_gets_conversations_once(self):
        with tempfile.TemporaryDirectory() as folder:
            train = pathlib.Path(folder)
            for n in range(30):
                (train / f"document{n}.txt").write_text(TEXT)
            written = fetch_corpus.write_chats(train)
            self.assertEqual(written, 30)  # one from each document
            self.assertEqual(written, len(list(train.glob("*.chat.txt"))))
            self.assertEqual(written, fetch_corpus.write_chats(train))
            self.assertEqual(written, len(list(train.glob("*.chat.txt"))))


if __name__ == "__main__":
    unittest.main()
