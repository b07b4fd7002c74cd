#!/usr/bin/env python3
"""Fails when a file uses a name of a header that is read precompiled, and neither it nor what it includes from here includes that header.

    check_includes.py [root]        (run by ctest as `includes`)

Builds with precompiled headers (cmake/precompile.cmake) cannot tell: there such a file compiles.
"""
import functools
import pathlib
import re
import sys

ROOMS = ("core", "backends", "autograd", "nn", "models", "datasets", "inspect", "train", "checks", "apps", "bench", "tests")
# Header of a precompiled set -> the names of std:: that it is read for, or a pattern.
NAMES = {
    "algorithm": "sort stable_sort partial_sort nth_element min max minmax clamp fill fill_n copy copy_n copy_if copy_backward find find_if find_if_not all_of any_of "
                 "none_of count count_if reverse rotate lower_bound upper_bound equal_range binary_search max_element min_element transform remove_if unique "
                 "generate mismatch equal for_each replace is_sorted swap_ranges lexicographical_compare",
    "array": "array",
    "cmath": "sqrt exp log log2 log10 exp2 expm1 log1p pow sin cos tan tanh sinh cosh erf erfc isnan isinf isfinite fabs floor ceil round lround llround rint trunc "
             "fma fmod hypot cbrt nan nextafter ldexp frexp signbit copysign lgamma",
    "cstdint": "int8_t int16_t int32_t int64_t uint8_t uint16_t uint32_t uint64_t uintptr_t intptr_t",
    "cstring": "memcpy memset memcmp memmove strlen strcmp strncmp strerror strchr strstr",
    "functional": "function hash greater less plus multiplies invoke",
    "memory": "unique_ptr shared_ptr weak_ptr make_unique make_shared enable_shared_from_this",
    "optional": "optional nullopt",
    "string": "string to_string stoi stod stoll",
    "string_view": "string_view",
    "unordered_map": "unordered_map",
    "vector": "vector",
    "filesystem": "filesystem",
    "fmt/core.h": re.compile(r"\bfmt::\w"),
    "nlohmann/json.hpp": re.compile(r"\bnlohmann::\w"),
    "catch2/catch.hpp": re.compile(r"\b(TEST_CASE|CHECK|REQUIRE)\("),
}
INSTEAD = {"fmt/core.h": {"fmt/format.h", "fmt/ranges.h", "fmt/chrono.h"}}  # each includes it
root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".")
if not (root / "cmake/precompile.cmake").is_file():
    sys.exit(f"{root}: is not the root of these sources")


@functools.cache
def code(path):
    """The text without comments, literals and includes; the headers of others it includes, and its own."""
    text = (root / path).read_text()
    theirs, ours = set(re.findall(r"^\s*#\s*include\s+<([^>]+)>", text, re.M)), set(re.findall(r'^\s*#\s*include\s+"([^"]+)"', text, re.M))
    text = re.sub(r'//[^\n]*|/\*.*?\*/|R"(\w*)\(.*?\)\1"|"(?:\\.|[^"\\\n])*"|^\s*#\s*include.*?$', " ", text, flags=re.S | re.M)
    return text, theirs, ours


def reached(path):
    """The headers of others that `path` and what it includes from here include."""
    seen, stack, found = {path}, [path], set()
    while stack:
        _, theirs, ours = code(stack.pop())
        found |= theirs
        more = {o for o in ours if o not in seen and (root / o).is_file()}
        seen |= more
        stack += more
    return found


def precompiled():
    """The headers of all sets."""
    text = (root / "cmake/precompile.cmake").read_text()
    return {h for h in re.findall(r"<([\w/.]+)>", "\n".join(re.findall(r"set\(NORMA_HEADERS_\w+([^)]*)\)", text)))}


patterns = {h: n if isinstance(n, re.Pattern) else re.compile(rf"\bstd::({'|'.join(n.split())})\b") for h, n in NAMES.items()}
bad = [f"cmake/precompile.cmake: <{h}>: {pathlib.Path(__file__).name} does not know its names" for h in sorted(precompiled() - NAMES.keys())]
files = [str(f.relative_to(root)) for room in ROOMS for f in sorted((root / room).rglob("*")) if f.suffix in (".h", ".cpp", ".cu")]
for f in files:
    text, has = code(f)[0], reached(f)
    for header, pattern in patterns.items():
        if (m := pattern.search(text)) and header not in has and not has & INSTEAD.get(header, set()):
            bad.append(f"{f}: uses {m[0].strip('(')} and includes no <{header}>")
print("\n".join(bad) or f"includes ok: {len(files)} files")
sys.exit(bool(bad))
