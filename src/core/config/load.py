"""From the text of a configuration to a `Config`, or to every problem it has, each with file and line.

Entries are judged one by one, so that a problem in one does not hide those in others.
"""

from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Any, TypeVar

from pydantic import ValidationError

from ..frozen import frozen
from .cross_checks import Written, problems_between
from .schema import Auth, Block, Config, KeyEntry, ModelEntry, ProviderEntry, Server, State
from .source import LookUp, Path, Problem, Source, read_source
from .words import did_you_mean, in_words, problems_of

_Block = TypeVar("_Block", bound=Block)


class ConfigError(Exception):
    """The configuration is refused. `problems`: one line each, `config.yaml:12: models[1].priority: must be ...`."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@frozen
class Loaded:
    """`key_sources`: path of a token in `config` -> `$NAME` or reference it comes from; absent: it is written out."""

    config: Config
    warnings: list[str] = field(default_factory=list)
    key_sources: Mapping[Path, str] = field(default_factory=dict)


def load(text: str, *, name: str, env: Mapping[str, str], look_up: LookUp | None = None) -> Loaded:
    """`name` stands before the line in messages. `look_up`: what references stand for. Raises ConfigError."""
    source = read_source(text, env, look_up)
    judge = _Judge(source)
    config = judge.read(source.data, env.get("AUTH_TOKEN")) if source.is_yaml else None
    if config is None or judge.problems:
        rows = sorted({(source.line_of(p.path), f"{in_words(p.path)}: {p.message}") for p in judge.problems})
        raise ConfigError([f"{name}:{line}: {words}" for line, words in rows])
    return Loaded(config, [f"{name}:{line}: {words}" for line, words in judge.warnings], judge.key_sources())


class _Judge:
    def __init__(self, source: Source) -> None:
        self.problems = list(source.problems)
        self.warnings: list[tuple[int, str]] = []
        self._source = source
        self._places: dict[Path, list[int]] = {("models",): [], ("auth", "keys"): []}  # of the result, in the file

    def read(self, data: Any, auth_token: str | None) -> Config | None:
        if not isinstance(data, dict):
            self.problems.append(Problem((), "must be a mapping with at least `models`"))
            return None
        for key in data.keys() - Config.model_fields.keys():
            self.problems.append(Problem((key,), "is not a known key" + did_you_mean(key, Config.model_fields)))
        written = _written_in(data)
        self._set_optional_aside(data)
        config = Config.model_construct(
            server=self._block(Server, ("server",), data.get("server", {})) or Server(),
            state=self._block(State, ("state",), data["state"]) if "state" in data else None,
            auth=self._auth(data, auth_token),
            providers=dict(self._providers(data.get("providers", {}))),
            models=self._models(data.get("models")),
        )
        for path, variable in self._source.unset.items():
            self.problems.append(Problem(path, f"needs the variable {variable}, which is not set"))
        for problem in problems_between(config, written):
            path = self._place(problem.path)
            if path not in self._source.unset:
                self.problems.append(Problem(path, problem.message))
        return config

    def key_sources(self) -> dict[Path, str]:
        here = {
            (*parent, place): (*parent, i) for parent, places in self._places.items() for i, place in enumerate(places)
        }
        sources = {}
        for path, origins in self._source.origins.items():
            entry = path[:-1]
            sources[(*here.get(entry, entry), path[-1])] = ", ".join(origins)
        return sources

    def _block(self, schema: type[_Block], path: Path, value: Any) -> _Block | None:
        try:
            return schema.model_validate(value)
        except ValidationError as error:
            found = [Problem((*path, *p.path), p.message) for p in problems_of(error, schema)]
            self.problems += [problem for problem in found if problem.path not in self._source.unset]
            return None

    def _auth(self, data: dict[str, Any], auth_token: str | None) -> Auth:
        if "auth" not in data:
            if not auth_token:
                self.problems.append(Problem(("auth",), "is missing and AUTH_TOKEN is not set: callers need a key"))
            self._source.origins[("auth", "keys", 0, "token")] = ("$AUTH_TOKEN",)
            data = {"auth": {"keys": [{"name": "default", "token": auth_token or "no key at all, but reported"}]}}
        auth = data["auth"]
        entries = auth.get("keys") if isinstance(auth, dict) else None
        if not isinstance(entries, list) or not entries or auth.keys() - {"keys"}:
            return self._block(Auth, ("auth",), auth) or Auth.model_construct(keys=[])
        return Auth.model_construct(keys=self._list(KeyEntry, ("auth", "keys"), entries))

    def _providers(self, entries: Any) -> Iterator[tuple[str, ProviderEntry]]:
        if not isinstance(entries, dict):
            self.problems.append(Problem(("providers",), "must be a mapping of names to entries"))
            return
        for name, entry in entries.items():
            block = self._block(ProviderEntry, ("providers", name), {} if entry is None else entry)
            if block:
                yield name, block

    def _models(self, entries: Any) -> list[ModelEntry]:
        if not isinstance(entries, list) or not entries:
            self.problems.append(Problem(("models",), "must be a list with at least one model"))
            return []
        if all(entry is _LEFT_OUT for entry in entries):
            self.problems.append(Problem(("models",), "are all optional, and none of them has its key"))
        return self._list(ModelEntry, ("models",), entries)

    def _list(self, schema: type[_Block], path: Path, entries: list[Any]) -> list[_Block]:
        blocks = []
        for place, entry in enumerate(entries):
            block = None if entry is _LEFT_OUT else self._block(schema, (*path, place), entry)
            if block:
                self._places[path].append(place)
                blocks.append(block)
        return blocks

    def _set_optional_aside(self, data: dict[str, Any]) -> None:
        """Leave out what is `optional` and whose token's variable is not set: models, and providers with theirs."""
        entries, blocks = _entries(data), _providers_of(data)
        left: set[str] = set()  # providers of models that are left out
        for place, entry in enumerate(entries):
            if not isinstance(entry, dict):
                continue
            provider, has_own = str(entry.get("provider")), "token" in entry
            path: Path = ("models", place) if has_own else ("providers", provider)
            variable = self._source.unset.get((*path, "token"))
            if variable and (_is_optional(entry) or (not has_own and _is_optional(blocks.get(provider)))):
                self._leave_out(("models", place), f"{entry.get('name')} is left out: {variable} is not set")
                entries[place] = _LEFT_OUT
                left.add(provider)
        used = {str(entry.get("provider")) for entry in entries if isinstance(entry, dict)}
        for name in [name for name in blocks if ("providers", name, "token") in self._source.unset]:
            if name in used and _is_optional(blocks[name]):  # by models with a key of their own
                self._leave_out(("providers", name, "token"))
                blocks[name].pop("token", None)
            elif name not in used and (name in left or _is_optional(blocks[name])):
                self._leave_out(("providers", name))
                del blocks[name]

    def _leave_out(self, path: Path, warning: str = "") -> None:
        if warning:
            self.warnings.append((self._source.line_of(path), warning))
        notes: tuple[dict[Path, Any], ...] = (self._source.unset, self._source.origins)
        for paths in notes:
            for inner in [inner for inner in paths if inner[: len(path)] == path]:
                del paths[inner]

    def _place(self, path: Path) -> Path:
        for parent, places in self._places.items():
            index = path[len(parent)] if len(path) > len(parent) else None
            if path[: len(parent)] == parent and isinstance(index, int):
                return (*parent, places[index], *path[len(parent) + 1 :])
        return path


_LEFT_OUT: Any = object()


def _is_optional(entry: Any) -> bool:
    return isinstance(entry, dict) and entry.get("optional") is True


def _entries(data: dict[str, Any]) -> list[Any]:
    models = data.get("models")
    return models if isinstance(models, list) else []


def _providers_of(data: dict[str, Any]) -> dict[str, Any]:
    providers = data.get("providers")
    return providers if isinstance(providers, dict) else {}


def _written_in(data: dict[str, Any]) -> Written:
    models = [entry for entry in _entries(data) if isinstance(entry, dict)]
    blocks = _providers_of(data)
    names: set[str] = set()
    for entry in models:
        aliases = entry.get("aliases")
        names |= {str(entry.get("name")), *(map(str, aliases) if isinstance(aliases, list) else ())}
    sizes = [entry.get("model_size") for entry in (*blocks.values(), *models) if isinstance(entry, dict)]
    return Written(names, {size.upper(): None for size in sizes if isinstance(size, str)}, set(blocks))
