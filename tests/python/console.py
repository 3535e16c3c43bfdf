"""An operator in a browser: logs in to the console, looks around, finds a dead letter and redrives it.

Input: a JSON document on standard input. Output: a JSON document for each step, one a line. Whatever the browser complains
about (errors, refused files, violations of the content security policy) is told at the end.
"""

import json
import sys

from selenium import webdriver
from selenium.common.exceptions import JavascriptException, StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

DEADLINE_S = 45


def told(**result):
    print(json.dumps(result), flush=True)


class Page:
    def __init__(self, order):
        self.order = order
        options = webdriver.ChromeOptions()
        options.binary_location = order["chromium"]
        for word in ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1280,800"]:
            options.add_argument(word)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.browser = webdriver.Chrome(options=options, service=Service(executable_path=order["chromedriver"]))
        self.browser.set_page_load_timeout(DEADLINE_S)

    def one(self, selector):
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector):
        """The words of the first such element. In one step: what is shown is made anew again and again."""
        script = "return document.querySelector(arguments[0])?.innerText ?? ''"
        return " ".join(self.browser.execute_script(script, selector).split())

    def tile(self, name):
        """The number on a tile."""
        script = """
            const tiles = [...document.querySelectorAll('.tile')];
            return tiles.find((tile) => tile.querySelector('.name').innerText === arguments[0])?.querySelector('b').innerText ?? '';
        """
        return self.browser.execute_script(script, name)

    def until(self, what, condition):
        wait = WebDriverWait(self.browser, DEADLINE_S, poll_frequency=0.1, ignored_exceptions=[StaleElementReferenceException])
        return wait.until(lambda _: condition(), what)

    def complaints(self):
        """What the browser has complained about since the last call."""
        return [entry["message"] for entry in self.browser.get_log("browser")]

    def choose(self, name, value):
        Select(self.one(f"#search [name={name}]")).select_by_value(value)

    def search(self, **fields):
        """Fills the form anew, and searches; answers what was found."""
        form = {"reason": "", "source": "", "sink": "", "state": "waiting", "id": "", **fields}
        for name in ["reason", "source", "sink", "state"]:
            self.choose(name, form[name])
        field = self.one("#search [name=id]")
        field.clear()
        field.send_keys(form["id"])
        before = self.text("#found")
        self.browser.execute_script("document.getElementById('found').textContent = ''")
        self.one("#find").click()
        self.until(f"a search is answered (before: {before})", lambda: self.text("#found") or self.text("#search-refused"))
        return self.text("#found")

    def pictures(self, name):
        """Leaves pictures of what is shown, in both schemes and two sizes."""
        folder = self.order.get("pictures")
        if not folder:
            return
        for scheme in ["light", "dark"]:
            media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
            self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
            for width, height in [(1280, 800), (390, 844)]:
                size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
                self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
                # A chart is drawn anew when its figure has another size.
                self.browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
                self.browser.save_screenshot(f"{folder}/{name}-{scheme}-{width}.png")
        self.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def main():
    order = json.load(sys.stdin)
    page = Page(order)
    try:
        walk(page, order)
    finally:
        page.browser.quit()


def walk(page, order):
    # A wrong token is refused, the right one lets in.
    page.browser.get(order["url"])
    page.pictures("login")
    page.one("#token").send_keys("a wrong guess at it" + Keys.ENTER)
    page.until("a wrong token is refused", lambda: "not the token" in page.text("#refused"))
    refused = page.complaints()
    page.one("#token").clear()
    page.one("#token").send_keys(order["token"] + Keys.ENTER)
    page.until("the page is there", lambda: page.browser.find_elements(By.CSS_SELECTOR, ".tile"))
    cookie = page.browser.get_cookies()[0]
    told(step="login", refused=len(refused), http_only=cookie["httpOnly"], same_site=cookie["sameSite"],
         seen_by_scripts=page.browser.execute_script("return document.cookie"))

    # Rates move, and so do the charts.
    page.until("events are received", lambda: page.tile("Received") not in ["", "–", "0"])
    page.until("events are delivered", lambda: page.tile("Delivered") not in ["", "–", "0"])
    lines = "#chart-throughput path.line"
    page.until("the chart has a line", lambda: "L" in page.one(lines).get_attribute("d"))
    page.pictures("overview")
    told(step="rates", nodes=page.tile("Nodes"), letters=page.tile("Dead letters"))

    page.browser.get(order["url"] + "#edge")
    page.until("the edge is shown", lambda: page.one("#part-edge").is_displayed() and page.text("#requests"))
    page.pictures("edge")
    edge = {part: page.text(f"#{part}") for part in ["requests", "latency", "sources"]}
    page.browser.get(order["url"] + "#processor")
    page.until("the processor is shown", lambda: page.one("#part-processor").is_displayed() and page.text("#sinks"))
    page.pictures("processor")
    told(step="parts", **edge, **{part: page.text(f"#{part}") for part in ["sinks", "lanes", "groups", "router"]})

    # A dead letter is found by its event's id, and by its reason.
    page.browser.get(order["url"] + "#letters")
    page.until("letters are listed", lambda: page.text("#found"))
    everything = page.text("#found")
    page.pictures("letters")
    by_reason = page.search(reason="refused")
    markup = page.search(source="acme", id="<script>alert(1)</script>")
    by_id = page.search(source="acme", id=order["event_id"])
    page.one("#letters button").click()
    page.until("its details are shown", lambda: "ss-source" in page.text("#details-body"))
    page.pictures("details")
    details = page.text("#details-body")
    page.one("#details form button").click()
    told(step="search", everything=everything, by_reason=by_reason, markup=markup, by_id=by_id, details=details)

    # What a stranger wrote is shown as text.
    page.search()
    rows = page.browser.find_elements(By.CSS_SELECTOR, "#letters tbody tr")
    strange = next(row for row in rows if "not_trusted" in row.text)
    strange.find_element(By.CSS_SELECTOR, "button").click()
    page.until("its headers are shown", lambda: "<script>" in page.text("#details-body"))
    markup_made = page.browser.execute_script("return document.querySelectorAll('#details-body script, #details-body img').length")
    page.pictures("strange")
    told(step="strange", details=page.text("#details-body"), markup_made=markup_made, ran=page.browser.execute_script("return window.ran ?? null"))
    page.one("#details form button").click()

    # It is redriven: looked at first, then confirmed with the number.
    page.search(source="acme", id=order["event_id"])
    page.one("#dry-run").click()
    page.until("the dry run is told", lambda: "would go to" in page.text("#redrive-body"))
    plan = page.text("#redrive-body")
    page.pictures("redrive")
    disabled = not page.one("#confirm-go").is_enabled()
    page.one("#confirm-count").send_keys("2")
    disabled = disabled and not page.one("#confirm-go").is_enabled()
    page.one("#confirm-count").clear()
    page.one("#confirm-count").send_keys("1")
    page.until("it can be confirmed", lambda: page.one("#confirm-go").is_enabled())
    page.one("#confirm-go").click()
    page.until("it went", lambda: "1 of 1 letters went" in page.text("#job"))
    after = page.until("it is known as redriven", lambda: redriven(page, order))
    told(step="redrive", plan=plan, disabled=disabled, after=after)

    # Nobody complained so far. The control: what the policy forbids does not work, and is complained about.
    complaints = page.complaints()
    try:
        page.browser.execute_script("document.body.innerHTML = '<b>markup</b>'")
        forbidden = False
    except JavascriptException:
        forbidden = True
    page.until("a violation is complained about", lambda: page.complaints())
    told(step="complaints", complaints=complaints, forbidden=forbidden)

    page.one("#logout").click()
    page.until("the login is shown", lambda: page.browser.find_elements(By.CSS_SELECTOR, "#token"))
    page.browser.get(order["url"])
    told(step="logout", url=page.browser.current_url)


def redriven(page, order):
    found = page.search(source="acme", id=order["event_id"], state="redriven")
    return found if found.startswith("1 letters") else None


main()
