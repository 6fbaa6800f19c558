//! A real Chromium without a window, driven through chromedriver.

use std::future::Future;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use thirtyfour::common::capabilities::chromium::ChromiumLikeCapabilities;
use thirtyfour::prelude::*;
use thirtyfour::{BrowserLogEntry, LoggingPrefsLogLevel};
use tokio::runtime::Runtime;

use idalloc_testing::server::PATIENCE;

const INSTALL_HINT: &str = "install chromium and chromium-driver: `make e2e` does";

/// How often something is looked at that a test waits for.
const POLL: Duration = Duration::from_millis(20);

/// A browser that shows one page. Dropping it ends it.
pub struct Browser {
    runtime: Runtime,
    driver: Option<WebDriver>,
    chromedriver: Child,
    origin: String,
    _profile: TempDir,
}

/// What the page is shown on.
#[derive(Debug, Clone, Copy)]
pub struct Screen {
    pub width: u32,
    pub height: u32,
    /// `light` or `dark`: what the system says that its user likes.
    pub theme: &'static str,
}

pub const DESKTOP: Screen = Screen { width: 1440, height: 900, theme: "light" };

impl Browser {
    /// Shows the page at `port`, on a desktop.
    pub fn open(port: u16) -> Browser {
        Browser::open_at(&format!("http://127.0.0.1:{port}/"))
    }

    /// Shows the page at this address, on a desktop.
    pub fn open_at(page: &str) -> Browser {
        let profile = tempfile::tempdir().expect("a directory");
        let (chromedriver, driver_port) = start_chromedriver(profile.path());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let url = format!("http://127.0.0.1:{driver_port}");
        let session = WebDriver::new(url, capabilities(profile.path()));
        let driver = runtime.block_on(session).unwrap_or_else(|error| panic!("{error}; {INSTALL_HINT}"));
        let origin = page.to_owned();
        let browser = Browser { runtime, driver: Some(driver), chromedriver, origin, _profile: profile };
        browser.show_on(DESKTOP);
        browser.reload();
        browser
    }

    fn driver(&self) -> &WebDriver {
        self.driver.as_ref().expect("a session")
    }

    fn run<T>(&self, what: &str, doing: impl Future<Output = WebDriverResult<T>>) -> T {
        self.runtime.block_on(doing).unwrap_or_else(|error| panic!("{what}: {error}"))
    }

    /// Loads the page anew.
    pub fn reload(&self) {
        self.run("load the page", self.driver().goto(self.origin.as_str()));
    }

    /// Shows the page in one more tab, and goes there.
    pub fn open_tab(&self) {
        self.run("one more tab", async {
            let tab = self.driver().new_tab().await?;
            self.driver().switch_to_window(tab).await
        });
        self.reload();
    }

    /// Shows the page in one more window, which hides none, and goes there.
    pub fn open_window(&self) {
        self.run("one more window", async {
            let window = self.driver().new_window().await?;
            self.driver().switch_to_window(window).await
        });
        self.reload();
    }

    /// Goes to the window or tab that was opened as the `index`th.
    pub fn go_to(&self, index: usize) {
        self.run("another window", async {
            let windows = self.driver().windows().await?;
            self.driver().switch_to_window(windows[index].clone()).await
        });
    }

    /// How many there are.
    pub fn windows(&self) -> usize {
        self.run("the windows", self.driver().windows()).len()
    }

    /// Closes the present window.
    pub fn close_window(&self) {
        self.run("close a window", self.driver().close_window());
    }

    /// Runs this script before those of every page that is loaded from now on.
    pub fn prepare(&self, script: &str) {
        let devtools = self.driver().cdp();
        let parameters = json!({"source": script});
        self.run("a script", devtools.send_raw("Page.addScriptToEvaluateOnNewDocument", parameters));
    }

    pub fn show_on(&self, screen: Screen) {
        let devtools = self.driver().cdp();
        let Screen { width, height, theme } = screen;
        let metrics =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": theme}]});
        for (command, parameters) in
            [("Emulation.setDeviceMetricsOverride", metrics), ("Emulation.setEmulatedMedia", media)]
        {
            self.run(command, devtools.send_raw(command, parameters));
        }
    }

    pub fn screenshot(&self, file: &Path) {
        self.run("a screenshot", self.driver().screenshot(file));
    }

    /// What an expression is in the page.
    pub fn eval(&self, expression: &str) -> Value {
        let returned = self.driver().execute(format!("return ({expression});"), Vec::new());
        self.run(expression, returned).json().clone()
    }

    /// Waits until an expression is true in the page.
    pub fn await_that(&self, expression: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.eval(&format!("Boolean({expression})")) != json!(true) {
            let page = || self.eval("document.body.innerText");
            assert!(Instant::now() < deadline, "not in time: {expression}; the page: {}", page());
            thread::sleep(POLL);
        }
    }

    pub fn await_text(&self, selector: &str, text: &str) {
        let (selector, text) = (json!(selector), json!(text));
        self.await_that(&format!("document.querySelector({selector})?.textContent.includes({text})"));
    }

    /// Clicks as a mouse does: what is covered, hidden or disabled cannot be clicked.
    pub fn click(&self, selector: &str) {
        self.run(selector, async { self.driver().find(By::Css(selector)).await?.click().await });
    }

    /// Replaces what a field holds, by the keys that a person would press.
    pub fn fill(&self, selector: &str, text: &str) {
        self.run(selector, async {
            let field = self.driver().find(By::Css(selector)).await?;
            field.send_keys(Key::Control + "a").await?;
            field.send_keys(Key::Backspace).await?;
            field.send_keys(text).await
        });
    }

    /// Presses keys, wherever the focus is.
    pub fn press(&self, keys: impl Into<TypingData>) {
        let keys = self.driver().action_chain().send_keys(keys);
        self.run("press keys", keys.perform());
    }

    /// The console's errors and warnings since this was asked last.
    pub fn complaints(&self) -> Vec<BrowserLogEntry> {
        let log = self.run("the console", self.driver().browser_log());
        log.into_iter().filter(|entry| matches!(entry.level.as_str(), "SEVERE" | "WARNING")).collect()
    }

    /// Fails if the console has complaints, or if anything was asked of another than the page's own server.
    pub fn assert_quiet(&self) {
        let complaints = self.complaints();
        assert!(complaints.is_empty(), "{complaints:#?}");
        let requests = self.requests();
        assert!(requests.len() > 10, "the requests are seen: {requests:?}");
        // The page that the browser itself shows first, and what is no request.
        let is_own =
            |url: &String| ["chrome:", "data:", &self.origin].iter().any(|start| url.starts_with(start));
        let elsewhere: Vec<_> = requests.iter().filter(|url| !is_own(url)).collect();
        assert!(elsewhere.is_empty(), "{elsewhere:?}");
    }

    /// The addresses asked for since this was asked last.
    fn requests(&self) -> Vec<String> {
        let log = self.run("the requests", self.driver().get_log("performance"));
        let url = |entry: BrowserLogEntry| {
            let event: Value = serde_json::from_str(&entry.message).expect("JSON");
            let is_request = event["message"]["method"] == "Network.requestWillBeSent";
            is_request.then(|| event["message"]["params"]["request"]["url"].as_str().map(str::to_owned))?
        };
        log.into_iter().filter_map(url).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if let Some(driver) = self.driver.take() {
            let _ = self.runtime.block_on(driver.quit());
        }
        let _ = self.chromedriver.kill();
        let _ = self.chromedriver.wait();
    }
}

/// chromedriver on a free port, and the port.
fn start_chromedriver(directory: &Path) -> (Child, u16) {
    let mut command = Command::new("chromedriver");
    // What they leave behind goes with the directory.
    command
        .arg("--port=0")
        .env("TMPDIR", directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("chromedriver: {error}; {INSTALL_HINT}"));
    let mut output = BufReader::new(child.stdout.take().expect("its output")).lines();
    let said =
        |line: String| line.strip_suffix('.')?.rsplit_once("started successfully on port ")?.1.parse().ok();
    let port = output.by_ref().map_while(Result::ok).find_map(said).expect("chromedriver says its port");
    // What it says further must find a reader.
    thread::spawn(move || output.for_each(drop));
    (child, port)
}

fn capabilities(profile: &Path) -> Capabilities {
    let mut chrome = DesiredCapabilities::chrome();
    let profile = format!("--user-data-dir={}", profile.display());
    for argument in [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        &profile,
    ] {
        chrome.add_arg(argument).expect("an argument");
    }
    for log in ["browser", "performance"] {
        chrome.set_logging_prefs(log, LoggingPrefsLogLevel::All).expect("a log");
    }
    chrome.into()
}
