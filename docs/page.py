"""Makes docs/page.png and docs/page-dark.png: the page of a running orderd under a lively load, in Debian's chromium.

    cargo build && python3 docs/page.py [SECONDS]

It takes ten minutes unless told otherwise, as the plots show as much. Needs chromium-driver; everything else is Python's own.
"""

import base64
import http.client
import json
import math
import os
import random
import re
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib

SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 600
HERE = os.path.dirname(os.path.abspath(__file__))
# Some orders fail at once, some after three attempts.
WORK = r"""
n=$(( $(printf %s "$ORDER_ID" | cksum | cut -d' ' -f1) % 100 ))
sleep 0.$((10 + n / 2))
if [ $n -lt 2 ]; then echo "payment service answered 502: upstream timed out after 30 s" >&2; exit 1; fi
if [ $n -lt 4 ]; then echo "card declined: insufficient funds" >&2; exit 65; fi
"""


def said_by(process, pattern):
    for line in process.stdout:
        if found := re.search(pattern, line):
            return found[1]
    sys.exit(f"{process.args[0]} has ended")


def load(port, until):
    connection = http.client.HTTPConnection("127.0.0.1", port)
    began, n = time.time(), 0
    while time.time() < until:
        t, n = time.time() - began, n + 1
        order = {
            "order_id": f"{random.choice(['web', 'app', 'shop'])}-{10_000 + n}",
            "user_id": random.choice(["ada", "grace", "linus", "margaret", "dennis", "barbara"]),
            "item_ids": random.sample(["lamp-07", "desk-oak-160", "chair-9", "mug-blue", "clock-wall"], random.randint(1, 4)),
            "total_amount": round(random.uniform(4, 900), 2),
        }
        connection.request("POST", "/order", json.dumps(order), {"Content-Type": "application/json"})
        connection.getresponse().read()
        rush = 18 if 150 < t % 300 < 165 else 0
        time.sleep(random.expovariate(max(0.5, 9 + 6 * math.sin(t / 45) + 3 * math.sin(t / 11) + rush)))


def photograph(driver_port, url):
    def tell(path, body):
        connection = http.client.HTTPConnection("127.0.0.1", driver_port, timeout=120)
        connection.request("POST", path, json.dumps(body), {"Host": "localhost"})
        return json.loads(connection.getresponse().read())["value"]

    arguments = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"]
    wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": {"args": arguments}}}}
    session = "/session/" + tell("/session", wanted)["sessionId"]
    try:
        command = lambda name, **parameters: tell(session + "/goog/cdp/execute", {"cmd": name, "params": parameters})
        command("Emulation.setDeviceMetricsOverride", width=1200, height=800, deviceScaleFactor=1, mobile=False)
        tell(session + "/url", {"url": url})
        time.sleep(SECONDS)
        for theme, name in [("light", "page.png"), ("dark", "page-dark.png")]:
            command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
            time.sleep(3)
            picture = base64.b64decode(command("Page.captureScreenshot", format="png")["data"])
            with open(os.path.join(HERE, name), "wb") as file:
                file.write(smaller(picture))
    finally:
        connection = http.client.HTTPConnection("127.0.0.1", driver_port, timeout=120)
        connection.request("DELETE", session)
        connection.getresponse().read()


def smaller(png):
    """The same picture without transparency, packed as well as can be; the browser packs fast instead."""
    width, height = struct.unpack(">II", png[16:24])
    depth = {2: 3, 6: 4}[png[25]]
    packed, at = b"", 8
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        packed += png[at + 8 : at + 8 + length] if kind == b"IDAT" else b""
        at += length + 12
    data, size, before, rows = zlib.decompress(packed), width * depth, bytearray(width * depth), []
    for y in range(height):
        kind, row = data[y * (size + 1)], bytearray(data[y * (size + 1) + 1 : (y + 1) * (size + 1)])
        for x in range(size):
            left, up, corner = (row[x - depth], before[x], before[x - depth]) if x >= depth else (0, before[x], 0)
            guess = left + up - corner
            paeth = min((left, up, corner), key=lambda value: abs(guess - value))
            row[x] = (row[x] + (0, left, up, (left + up) // 2, paeth)[kind]) & 255
        before = row
        rows.append(b"".join(row[x : x + 3] for x in range(0, size, depth)))
    # Unfiltered or as the difference to the row above: most of a page is the same as what is above it.
    up = lambda row, above: bytes((a - b) & 255 for a, b in zip(row, above))
    forms = [b"".join(b"\0" + row for row in rows), b"".join(b"\2" + up(r, a) for r, a in zip(rows, [bytes(3 * width)] + rows))]
    body = min((zlib.compress(form, 9) for form in forms), key=len)
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return png[:8] + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def start(command, **more):
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, **more)


with tempfile.TemporaryDirectory() as folder:
    flags = ["--listen", "127.0.0.1:0", "--exec", WORK, "--concurrency", "6", "--max-attempts", "3", "--retry-delay", "2s"]
    binary = os.environ.get("ORDERD", os.path.join(HERE, "../target/debug/orderd"))
    server = start([os.path.abspath(binary), *flags], cwd=folder)
    driver = start(["chromedriver", "--port=0"])
    try:
        port = int(said_by(server, r"listening on http://127\.0\.0\.1:(\d+)"))
        driver_port = int(said_by(driver, r"successfully on port (\d+)"))
        threading.Thread(target=load, args=(port, time.time() + SECONDS + 10), daemon=True).start()
        photograph(driver_port, f"http://127.0.0.1:{port}/")
    finally:
        driver.terminate()
        server.terminate()
        server.wait()
