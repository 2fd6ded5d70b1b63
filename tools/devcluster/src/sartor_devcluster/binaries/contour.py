"""Contour, the Gateway API implementation: built with Go into the cache, with the resource definitions that it needs.

Upstream publishes images and no programs. `contour/` beside this package is nothing but the modules that Contour's own
`go.mod` asks for, in a graph of its own: in one with Kubernetes' or CoreDNS' modules it does not compile. The CRDs are
those of the Gateway API release in that graph, experimental channel (Contour watches TLSRoute and TCPRoute), and Contour's.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from sartor_devcluster.binaries.build import hash_of
from sartor_devcluster.binaries.coredns import Found
from sartor_devcluster.binaries.golang import compile_program, find_go, module_folder
from sartor_devcluster.binaries.offer import Source, show
from sartor_devcluster.binaries.store import making, require_space
from sartor_devcluster.errors import BinariesError

CONTOUR = (1, 33, 8)
PROGRAM = "contour"
MODULE = "github.com/projectcontour/contour"
GATEWAY_API = "sigs.k8s.io/gateway-api"
SOURCES = Path(__file__).resolve().parents[1] / "contour"
LINK_FLAGS = f"-s -w -X {MODULE}/internal/build.Version=v{show(CONTOUR)}"
CRDS = "crds"
"""Folder beside the program: one file for each CustomResourceDefinition, named as it is."""

CRDS_LAYOUT = 1
"""Counts how that folder is made, as part of the cache folder's name."""

GROUPS = (".gateway.networking.k8s.io", ".projectcontour.io")
"""Groups of the definitions that are kept; the experimental channel has others (x-k8s.io), which Contour does not know."""

NEEDED_BYTES = 2_500_000_000
COST = "about 3 min on 2 free cores, 1 GB of Go's caches, 65 MB in the end; once"
_NAME = re.compile(r"^  name: ([a-z0-9.-]+)$", re.MULTILINE)


def folder(cache: Path) -> Path:
    """Where the build of the present sources is kept, made or not."""
    return cache / f"contour-{show(CONTOUR)}-{hash_of(SOURCES, f'{LINK_FLAGS} {CRDS_LAYOUT}')}"


def find_contour(
    cache: Path,
    environment: Mapping[str, str],
    say: Callable[[str], None],
    *,
    sources: Iterable[Source] = tuple(Source),
) -> Found:
    """The program, with its definitions in `CRDS` beside it: from the cache, else built.

    Idempotent and safe in several processes at once. Raises `BinariesError`.
    """
    allowed = set(sources)
    place = folder(cache)
    if Source.CACHE in allowed and (place / PROGRAM).is_file():
        return Found(_whole(place), Source.CACHE)
    if Source.BUILD not in allowed:
        raise BinariesError("no Contour in the cache, and none of the allowed sources can make one")
    return Found(_build(place, environment, say), Source.BUILD)


def definitions(text: str) -> dict[str, str]:
    """The CustomResourceDefinitions of `GROUPS` in a file of YAML documents, by name."""
    found: dict[str, str] = {}
    for document in re.split(r"^---[ \t]*$", text, flags=re.MULTILINE):
        name = _NAME.search(document)
        if "\nkind: CustomResourceDefinition\n" in f"\n{document}" and name and name[1].endswith(GROUPS):
            found[name[1]] = f"{document.strip()}\n"
    return found


def _build(place: Path, environment: Mapping[str, str], say: Callable[[str], None]) -> Path:
    with making(place, say) as scratch:
        if scratch is not None:
            go = find_go(environment, SOURCES)
            require_space(place.parent, NEEDED_BYTES, "building Contour")
            say(f"building Contour {show(CONTOUR)} with Go into {place} ({COST})")
            compile_program(
                go,
                SOURCES,
                scratch / PROGRAM,
                link_flags=LINK_FLAGS,
                environment=environment,
                say=say,
                advice="see that 2 GB of memory are free, then try again",
                package=f"{MODULE}/cmd/{PROGRAM}",
            )
            gateway_api = module_folder(go, SOURCES, GATEWAY_API, environment) / "config" / "crd" / "experimental"
            own = module_folder(go, SOURCES, MODULE, environment) / "examples" / "contour" / "01-crds.yaml"
            (scratch / CRDS).mkdir()
            for file in [*sorted(gateway_api.glob("*.yaml")), own]:
                for name, document in definitions(file.read_text(encoding="utf-8")).items():
                    (scratch / CRDS / f"{name}.yaml").write_text(document, encoding="utf-8")
    return _whole(place)


def _whole(place: Path) -> Path:
    path = place / PROGRAM
    names = {file.stem for file in (place / CRDS).glob("*.yaml")}
    if not path.is_file() or not {"httproutes.gateway.networking.k8s.io", "httpproxies.projectcontour.io"} <= names:
        raise BinariesError(f"{place} is damaged; remove the folder and try again")
    return path
