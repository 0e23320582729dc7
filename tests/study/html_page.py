"""A written page, read as a browser would: for the tests of reports."""

import re
from html.parser import HTMLParser

# Elements that HTML leaves open, and those that SVG closes in their start tag.
VOID = {"meta", "br", "hr", "img", "link"}


class Page(HTMLParser):
    """Collects text, tags and labels, and checks that elements are nested as they should be."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words, self.labels = [], [], [], []
        self.feed(text)
        assert not self.open
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.labels += [value for name, value in attributes if name == "aria-label"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def assert_no_network(text):
    """The page fetches nothing."""
    assert not re.search(r"https?://|//cdn|@import|url\((?!#)|<link|<script|\ssrc=", text)
