"""Drives the studio in Chromium, in an environment with Playwright: ``browser_driver.py CHROMIUM URL FOLDER USER``.

Prints a line of JSON for each step: what the page asked the gateway last, and what it shows. Before the steps that need
a server with a rule, one that is gone, or one that is back, it prints their names and waits for a line of standard
input. Pictures go to the folder.
"""

import json
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

SIZES = {"phone": (390, 844), "tablet": (820, 1180), "desktop": (1400, 1000)}
DRAG_STEPS = 60
TIMEOUT_MS = 60_000

SHOWN = """() => {
  const ofRows = read => [...document.querySelectorAll("#lists ol")].map(list =>
    [...list.querySelectorAll("li[data-item]")].map(read));
  return {
    now: document.body.dataset.now,
    alpha: document.querySelector("#alpha-shown").textContent,
    events: [...document.querySelectorAll("#events .name")].map(name => name.textContent),
    lists: ofRows(row => [row.dataset.item, row.querySelector(".score").textContent]),
    reasons: ofRows(row => [...row.querySelectorAll(".reason")].map(reason => reason.textContent)),
  };
}"""
DRAG = """([steps]) => new Promise(resolve => {
  const slider = document.querySelector("#ahead"), times = [];
  const step = number => {
    if (number > steps) return resolve(times);
    const began = performance.now();
    const watch = new MutationObserver(() => {
      watch.disconnect();
      requestAnimationFrame(() => { times.push(performance.now() - began); step(number + 1); });
    });
    watch.observe(document.body, {attributes: true, attributeFilter: ["data-now"]});
    slider.value = Math.round(1000 * number / steps);
    slider.dispatchEvent(new Event("input"));
  };
  step(1);
})"""


def main(chromium: str, url: str, folder: str, user: str) -> None:
    out, asked, paths = Path(folder), [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport=dict(zip(("width", "height"), SIZES["desktop"], strict=True)), locale="en-US")
        page.set_default_timeout(TIMEOUT_MS)
        page.on("request", lambda request: paths.append(urlsplit(request.url).path))
        page.on("request", lambda request: request.url.endswith("/v1/explain") and asked.append(request.post_data))
        faults = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: "Content Security" in said.text and faults.append(said.text))

        def settle() -> None:
            page.wait_for_function("() => document.body.dataset.now && !document.body.dataset.busy")

        def tell(step: str, **more: object) -> None:
            settle()
            shown = page.evaluate(SHOWN)
            count = len(shown["lists"])
            print(json.dumps({"step": step, "asked": asked[-count:], **shown, **more}), flush=True)

        def picture(name: str) -> None:
            page.wait_for_timeout(400)
            page.screenshot(path=out / f"{name}.png", full_page=True)

        def tour(name: str) -> None:
            page.wait_for_timeout(400)
            page.screenshot(path=out / f"tour-{name}.jpg", type="jpeg", quality=80)

        page.goto(url)
        settle()
        paint = page.evaluate("() => performance.getEntriesByName('first-contentful-paint')[0].startTime")
        page.fill("#user", user)
        page.click("#user-form button[type=submit]")
        page.wait_for_function("() => document.querySelector('#events li')")
        tell("loaded", first_paint_ms=paint)
        tour("1-user")

        page.fill("#search", "a")
        page.click("#found button >> nth=0")
        page.fill("#search", "")
        tell("event added")
        tour("2-session")

        before = len(paths)
        times = page.evaluate(DRAG, [DRAG_STEPS])
        tell("time dragged", drag_ms=times, calls=[path for path in paths[before:] if path != "/studio/titles"])
        tour("3-faded")
        page.click("#lists ol li >> nth=0 >> button")
        tell("event after the pause")
        tour("4-returns")

        page.uncheck("#settings fieldset >> nth=0 >> input[type=checkbox]")
        page.evaluate(
            "() => { const alpha = document.querySelector('#settings input[type=range]'); alpha.value = 0;"
            " alpha.dispatchEvent(new Event('input')); }"
        )
        tell("alpha 0")
        page.check("#compare")
        page.check("#settings fieldset >> nth=1 >> input[type=checkbox]")
        tell("compared")
        tour("5-compared")
        page.uncheck("#compare")
        page.click("#nobody")
        page.wait_for_function("() => !document.querySelector('#events li')")
        tell("new user")
        tour("6-new-user")

        page.fill("#user", user)
        page.click("#user-form button[type=submit]")
        page.wait_for_function("() => document.querySelector('#events li')")
        page.check("#settings fieldset >> nth=0 >> input[type=checkbox]")
        page.get_by_label("Diversity of the list").evaluate(
            "slider => { slider.value = 0.7; slider.dispatchEvent(new Event('input')); }"
        )
        tell("diversity")
        print(json.dumps({"step": "set a rule"}), flush=True)
        sys.stdin.readline()
        deadline = time.monotonic() + TIMEOUT_MS / 1000
        while not page.query_selector(".reason:has-text('rule')") and time.monotonic() < deadline:
            page.click("#back")
            settle()
        tell("rule")
        tour("7-diversity-and-rule")
        serious = []
        for language in ("en", "zh"):
            for theme in ("light", "dark"):
                for size, (width, height) in SIZES.items():
                    page.set_viewport_size({"width": width, "height": height})
                    picture(f"{size}-{theme}-{language}")
                    wide = page.evaluate("() => document.documentElement.scrollWidth > innerWidth")
                    serious += [f"{size}: scrolls sideways"] * wide
                found = Axe().run(page).response["violations"]
                serious += [
                    f"{theme}, {language}: {one['id']}: {one['nodes'][0]['html'][:200]}"
                    for one in found
                    if one["impact"] in ("serious", "critical")
                ]
                page.click("#theme")
            page.click("#language")
            settle()
        page.keyboard.press("Tab")
        tell("looked at", serious=serious, focused=page.evaluate("() => document.activeElement.tagName"))

        print(json.dumps({"step": "stop the server"}), flush=True)
        sys.stdin.readline()
        page.check("#seen")
        page.wait_for_selector("#problem:not([hidden])")
        said = page.text_content("#problem")
        picture("stopped")
        print(json.dumps({"step": "stopped", "said": said}), flush=True)
        sys.stdin.readline()
        page.wait_for_selector("#problem[hidden]", state="attached", timeout=5 * TIMEOUT_MS)
        tell("back", faults=faults, seconds=time.monotonic())
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
