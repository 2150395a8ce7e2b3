"""Everything that the README shows can be typed: snippets parse, and options exist."""

from __future__ import annotations

import ast
import importlib
import re
import shlex

import pytest

from forethought.cli import speed
from forethought.cli.main import COMMANDS
from forethought.cli.options import parse
from forethought.cli.pretrain import PretrainCommand
from forethought.cli.train import read_options
from forethought.world_model import JEPA

from .readme import ROOT, TEXT, blocks, commands


@pytest.mark.parametrize("snippet", blocks("python"), ids=lambda snippet: snippet.split("\n", 1)[0])
def test_every_snippet_parses(snippet):
    ast.parse(snippet)


@pytest.mark.parametrize("command", commands())
def test_every_command_exists_with_its_options(command, monkeypatch):
    monkeypatch.setattr("forethought.agents.pretrained.pretrained_model", lambda folder: JEPA(3, 1))
    program, *arguments = shlex.split(command)
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert arguments[0] in targets
        return
    assert program == "forethought"
    name, *options = arguments
    if name == "train":
        read_options(options)
    elif name == "pretrain":  # what else is an option depends on the store
        parse(PretrainCommand, name, options)
    elif name == "speed" and options[0] in speed.OTHERS:
        parse(getattr(speed, f"{options[0].title()}SpeedOptions"), name, options[1:])
    else:
        module = importlib.import_module(f"forethought.cli.{name.replace('-', '_')}")
        title = "".join(part.title() for part in name.split("-"))
        parse(getattr(module, f"{title}Options"), name, options)


def test_every_file_that_it_links_to_exists():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", TEXT) if "://" not in link]
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]


def test_every_command_of_the_command_line_is_shown():
    shown = {re.sub(r"`.*", "", rest).split()[0] for rest in re.findall(r"forethought (\w[^`\n]*)", TEXT)}
    assert set(COMMANDS) - {"demo"} <= shown
