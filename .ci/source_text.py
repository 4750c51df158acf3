"""Finds the items of Rust files, the blocks of YAML files, and texts in them regardless of white space."""

import bisect
import dataclasses
import pathlib
import re

# Comments, literals, and what looks like a literal and is none.
LEXEMES = re.compile(
    r"""(?P<comment>//[^\n]*|/\*.*?\*/)
    |(?P<raw>\bb?r(?P<hashes>\#*)".*?"(?P=hashes))
    |(?P<string>"(?:\\.|[^"\\])*")
    |(?P<char>'(?:\\(?:u\{[^}]*\}|.[0-9a-fA-F]?)|[^'\\\n])')
    |(?P<lifetime>'\w+)""",
    re.DOTALL | re.VERBOSE,
)
ITEM = re.compile(r"\b(?:(fn|mod|struct|enum|trait|union|const|static|macro_rules!)\s+(?:mut\s+)?([A-Za-z]\w*)|(impl)\b)")
# Two characters that are one operator: a text that begins or ends inside one does not fit there.
OPERATORS = {"<=", ">=", "==", "!=", "&&", "||", "->", "=>", "::", "..", "+=", "-=", "*=", "/="}


def is_word(character):
    return character.isalnum() or character == "_"


def blank(text):
    return re.sub(r"[^\n]", " ", text)


def without_comments(text):
    """The text with comments blanked, as long as before."""
    return LEXEMES.sub(lambda found: blank(found[0]) if found["comment"] else found[0], text)


def without_literals(text):
    return LEXEMES.sub(lambda found: blank(found[0]), text)


@dataclasses.dataclass
class Item:
    path: tuple
    start: int
    end: int
    is_test_module: bool = False


def end_of(code, position, ends_at_brace):
    """Where an item ends whose head goes on at `position`: behind its block, or its semicolon."""
    depth = 0
    for mark in re.compile(r"[()\[\]{};]").finditer(code, position):
        if mark[0] in "([{":
            depth += 1
        elif mark[0] in ")]}":
            depth -= 1
            if depth < 0:
                return None
            if depth == 0 and mark[0] == "}" and ends_at_brace:
                return mark.end()
        elif depth == 0:
            return mark.end()
    return None


def implemented_type(head):
    """The name of the type that an `impl` is for: `impl<T> From<T> for a::Name<T>` is of `Name`."""
    while True:
        shorter = re.sub(r"<[^<>]*>", "", head.replace("->", ""))
        if shorter == head:
            break
        head = shorter
    head = re.sub(r"\bwhere\b.*", "", head, flags=re.DOTALL)
    names = re.findall(r"\w+", re.split(r"\bfor\b", head)[-1])
    return names[-1] if names else "impl"


def items_of(text, modules=()):
    """The items of a Rust file, outer ones before those inside them."""
    code = without_literals(text)
    found, around = [], []
    for head in ITEM.finditer(code):
        kind, name, is_impl = head.groups()
        before = code[max(0, head.start() - 200) : head.start()].rstrip()
        if is_impl:
            # Elsewhere it stands for a type.
            if before and not (before[-1] in "{};]" or before.endswith("unsafe")):
                continue
            brace = code.find("{", head.end())
            name = implemented_type(code[head.end() : brace])
        elif kind in ("const", "static") and (not re.match(r"\s*:", code[head.end() :]) or before[-1:] in ("<", ",", "*", "&")):
            continue
        end = end_of(code, head.end(), kind not in ("const", "static"))
        if end is None:
            continue
        while around and around[-1].end <= head.start():
            around.pop()
        outer = around[-1].path if around else tuple(modules)
        item = Item((*outer, name), head.start(), end, kind == "mod" and re.search(r"#\[cfg\(test\)\]\s*(?:pub(?:\([a-z]+\))?)?$", before) is not None)
        found.append(item)
        around.append(item)
    return found


def modules_of(file, source):
    """The path of the module that a file below the folder `source` holds."""
    parts = list(file.relative_to(source).with_suffix("").parts)
    if parts[-1] in ("mod", "lib", "main"):
        parts.pop()
    return tuple(parts)


class Sources:
    """The Rust files of one package, read once."""

    def __init__(self, source):
        self.texts = {}
        self.items = []
        for file in sorted(pathlib.Path(source).rglob("*.rs")):
            text = file.read_text()
            self.texts[file] = text
            self.items += [(file, item) for item in items_of(text, modules_of(file, source))]
        tests = {item.path for _, item in self.items if item.is_test_module}
        self.items = [
            (file, item)
            for file, item in self.items
            if not any(item.path[:length] in tests for length in range(1, len(item.path) + 1))
        ]

    def named(self, name):
        """The items outside of tests whose path ends with `name`."""
        wanted = tuple(name.split("::"))
        return [(file, item) for file, item in self.items if item.path[-len(wanted) :] == wanted]

    def like(self, name):
        """Which items have the last word of this name."""
        last = name.split("::")[-1]
        paths = sorted({"::".join(item.path) for _, item in self.items if item.path[-1] == last})
        if len(paths) > 5:
            paths[5:] = ["…"]
        return f"there is {', '.join(paths)}" if paths else f"nothing there is called {last}"


def blocks_of(text, word, start, end):
    """The blocks of a YAML text between `start` and `end` that `word` begins, as a key or as an
    entry's name: its line, and those indented below it."""
    head = re.compile(rf"^( *)(?:- )?(?:\w*(?:Id|Sid|Name): )?{re.escape(word)}(?::|$).*\n?", re.MULTILINE)
    for line in head.finditer(text, start, end):
        last = line.end()
        for below in re.compile(r"^( *)\S?.*\n?", re.MULTILINE).finditer(text, last, end):
            if below[0].strip() and len(below[1]) <= len(line[1]):
                break
            last = below.end()
        yield line.start(), last


def compact(text):
    """The text without what formatting changes (white space, a comma before a closing bracket), and
    where each of its characters stood."""
    characters, places = [], []
    for place, character in enumerate(text):
        if character.isspace():
            if characters and characters[-1] != " ":
                characters.append(" ")
                places.append(place)
            continue
        if characters and characters[-1] == " " and not (is_word(character) and len(characters) > 1 and is_word(characters[-2])):
            characters.pop()
            places.pop()
        if character in ")]}" and characters and characters[-1] == ",":
            characters.pop()
            places.pop()
        characters.append(character)
        places.append(place)
    if characters and characters[-1] == " ":
        characters.pop()
        places.pop()
    return "".join(characters), places


class Compact:
    """A file's text for searches that white space and comments do not disturb."""

    def __init__(self, text, is_rust):
        self.text = text
        self.compact, self.places = compact(without_comments(text) if is_rust else text)

    def find(self, wanted, start, end):
        """The spans between `start` and `end` of the file in which `wanted` stands."""
        wanted, _ = compact(wanted)
        spans = []
        place = bisect.bisect_left(self.places, start)
        last = bisect.bisect_left(self.places, end)
        while wanted and (place := self.compact.find(wanted, place, last)) >= 0:
            behind = place + len(wanted)
            if not (self.joins(place - 1) or self.joins(behind - 1)):
                spans.append((self.places[place], self.places[behind - 1] + 1))
            place += 1
        return spans

    def joins(self, place):
        """Whether this character and the next are of one word or operator."""
        if place < 0 or place + 1 >= len(self.compact):
            return False
        left, right = self.compact[place], self.compact[place + 1]
        if self.places[place + 1] != self.places[place] + 1:
            return False
        return (is_word(left) and is_word(right)) or left + right in OPERATORS


def body_of(text, start, end):
    """Where the body of the function lies that stands between `start` and `end`: what is between its
    braces."""
    return without_literals(text).index("{", start, end) + 1, end - 1
