//! A real browser, without a window: Debian's chromium, told what to do by its chromedriver (WebDriver: JSON over HTTP).
//!
//! One at a time, as a browser takes as much of the machine as all the tests beside it. Each has a profile of its own and is
//! ended when dropped, also when a test fails. Where there is no chromium a test is left out and says so; CI must have one.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use orderd::Address;
use serde_json::{Value, json};

use super::{Client, Folder, PATIENCE, comes_true, length_of, request};

/// How long the driver may take for one thing, starting a browser included.
const DRIVER_PATIENCE: Duration = Duration::from_secs(120);
/// What an element is called in WebDriver's JSON.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A browser with one window.
pub struct Browser {
    driver: Child,
    at: Address,
    session: String,
    _profile: Folder,
    _turn: MutexGuard<'static, ()>,
}

impl Browser {
    /// Starts one, or says why not.
    pub fn start() -> Option<Browser> {
        static ONE: Mutex<()> = Mutex::new(());
        let turn = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let profile = Folder::new();
        let mut command = Command::new("chromedriver");
        command.arg("--port=0").env("HOME", profile.path()).current_dir(profile.path());
        let mut driver = match command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn() {
            Ok(driver) => driver,
            Err(e) => {
                assert!(std::env::var_os("CI").is_none_or(|value| value.is_empty()), "CI has no browser: {e}");
                eprintln!("left out, as there is no browser (Debian: apt-get install chromium chromium-driver): {e}");
                return None;
            }
        };
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines().map_while(Result::ok);
        let port = lines.find_map(|line| line.split_once("successfully on port ")?.1.trim_end_matches('.').parse::<u16>().ok());
        // What it says later must find a reader.
        std::thread::spawn(move || lines.for_each(drop));
        let Some(port) = port else {
            let _ = driver.kill();
            panic!("chromedriver did not say its port: {:?}", driver.wait());
        };
        let at = Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        if let Err(e) = Client::connect(&at) {
            let _ = driver.kill().and_then(|()| driver.wait());
            eprintln!("left out, as the browser's driver can't be reached, as in a network without IPv6: {e}");
            return None;
        }
        let mut browser = Browser { driver, at, session: String::new(), _profile: profile, _turn: turn };
        let arguments = [
            "--headless=new",
            // Tests run as root, and in containers.
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--window-size=1200,900",
            "--force-device-scale-factor=1",
            "--hide-scrollbars",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
        ];
        let wanted = json!({
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        });
        let session = browser.tell("POST", "/session", &json!({ "capabilities": { "alwaysMatch": wanted } }));
        browser.session = format!("/session/{}", session["sessionId"].as_str().unwrap());
        Some(browser)
    }

    /// Shows the page at this URL.
    #[track_caller]
    pub fn open(&self, url: &str) {
        self.post("/url", json!({ "url": url }));
    }

    /// Runs a script within the page, with `arguments`, and gives what it returns.
    #[track_caller]
    pub fn run(&self, script: &str, arguments: Value) -> Value {
        self.post("/execute/sync", json!({ "script": script, "args": arguments }))
    }

    /// What one can read in the first element that a selector finds; empty if there is none.
    #[track_caller]
    pub fn text(&self, selector: &str) -> String {
        let text = self.run("return document.querySelector(arguments[0])?.innerText ?? ''", json!([selector]));
        text.as_str().unwrap().to_string()
    }

    /// Waits until `condition` holds for what can be read there.
    #[track_caller]
    pub fn wait_for_text(&self, selector: &str, condition: impl Fn(&str) -> bool) -> String {
        let mut text = String::new();
        let came = comes_true(2 * PATIENCE, || {
            text = self.text(selector);
            condition(&text)
        });
        assert!(came, "{selector} still reads {text:?}; the whole page:\n{}", self.text("body"));
        text
    }

    /// Clicks on the first element that a selector finds, as a person would: it must be in sight and not covered.
    #[track_caller]
    pub fn click(&self, selector: &str) {
        let element = self.find(selector);
        self.post(&format!("/element/{element}/click"), json!({}));
    }

    /// Types into the first element that a selector finds, after what is there.
    #[track_caller]
    pub fn type_into(&self, selector: &str, text: &str) {
        let element = self.find(selector);
        self.post(&format!("/element/{element}/value"), json!({ "text": text }));
    }

    /// Presses and releases a key, wherever the focus is. Keys without a letter have a code of WebDriver's: Tab is `\u{e004}`.
    #[track_caller]
    pub fn press(&self, key: &str) {
        let actions = json!([{ "type": "keyDown", "value": key }, { "type": "keyUp", "value": key }]);
        self.post("/actions", json!({ "actions": [{ "type": "key", "id": "keys", "actions": actions }] }));
    }

    /// Has the browser do what only its developers' protocol can say.
    #[track_caller]
    pub fn command(&self, name: &str, parameters: Value) -> Value {
        self.post("/goog/cdp/execute", json!({ "cmd": name, "params": parameters }))
    }

    /// What the page and the browser have said on the console since the last call: errors, and what the policy forbade.
    #[track_caller]
    pub fn console(&self) -> Vec<String> {
        let log = self.post("/se/log", json!({ "type": "browser" }));
        log.as_array().unwrap().iter().map(|entry| entry["message"].as_str().unwrap().to_string()).collect()
    }

    /// The URLs that were asked for since the last call, in their order, each with its method.
    #[track_caller]
    pub fn requests(&self) -> Vec<String> {
        let log = self.post("/se/log", json!({ "type": "performance" }));
        let messages = log.as_array().unwrap().iter();
        let events = messages.map(|entry| serde_json::from_str::<Value>(entry["message"].as_str().unwrap()).unwrap());
        let sent = events.filter(|event| event["message"]["method"] == "Network.requestWillBeSent");
        let of = |event: Value| {
            let request = &event["message"]["params"]["request"];
            format!("{} {}", request["method"].as_str().unwrap(), request["url"].as_str().unwrap())
        };
        sent.map(of).collect()
    }

    #[track_caller]
    fn find(&self, selector: &str) -> String {
        let found = self.post("/element", json!({ "using": "css selector", "value": selector }));
        found[ELEMENT].as_str().unwrap().to_string()
    }

    #[track_caller]
    fn post(&self, path: &str, body: Value) -> Value {
        self.tell("POST", &format!("{}{path}", self.session), &body)
    }

    #[track_caller]
    fn tell(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = body.to_string();
        let mut client = Client::connect(&self.at).unwrap();
        client.set_read_timeout(DRIVER_PATIENCE).unwrap();
        let answer = client.ask(request(method, path, &[&length_of(&body)], &body));
        let value = answer.json()["value"].take();
        assert!(answer.status == 200, "{method} {path} {body:.500}: {} {}", value["error"], value["message"]);
        value
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It ends the browser; without a session it would stay.
        if !self.session.is_empty()
            && let Ok(mut client) = Client::connect(&self.at)
        {
            let _ = client.set_read_timeout(PATIENCE);
            let _ = client.try_ask(request("DELETE", &self.session, &[&length_of("")], ""));
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// The hash of a text as a policy names it.
pub fn policy_hash(text: &str) -> String {
    let script = "import base64, hashlib, sys\nprint('sha256-' + base64.b64encode(hashlib.sha256(sys.argv[1].encode()).digest()).decode())";
    let output = Command::new("python3").args(["-c", script, text]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_string()
}
