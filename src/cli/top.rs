//! `idalloc top`: a running server, live, on a terminal.

mod app;
mod client;
#[cfg(test)]
mod fixtures;
mod sse;
mod view;

use std::io::{self, IsTerminal as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use idalloc::config::process_env;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use self::app::{App, Flow, Message, Page, Query, Sample, Status};
use self::client::Client;
use super::RunError;

pub use self::client::ClientError;

/// How often the tags are asked for.
const PAGE_INTERVAL: Duration = Duration::from_secs(1);
/// How often the status is.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);
/// The pause before a stream that broke is opened again.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);
/// How often ages are drawn anew though nothing else has changed.
const REDRAW_INTERVAL: Duration = Duration::from_millis(500);
/// Messages that wait to be drawn.
const MESSAGES_MAX: usize = 64;

#[derive(Debug, Args)]
pub(super) struct Top {
    /// The server's operator's port (AdminHost and AdminPort); a name must be localhost or among its AdminNames
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8881")]
    url: String,
    /// The environment variable that holds the server's AdminToken, if it has one
    #[arg(long, value_name = "NAME", default_value = "IDALLOC_ADMIN_TOKEN")]
    token_env: String,
}

/// Shows the server until somebody has seen enough.
pub(super) fn top(args: &Top) -> Result<(), RunError> {
    let client = Client::new(&args.url, &args.token_env, process_env)?;
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(RunError::NoTerminal);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(follow(client));
    // Nothing that is under way matters any more.
    runtime.shutdown_background();
    outcome
}

async fn follow(client: Client) -> Result<(), RunError> {
    // A server that cannot be reached at first is a wrong --url more often than not.
    let status: Status = client.get("/api/status").await?;
    let mut app = App::new(client.authority(), status, Instant::now());
    let client = Arc::new(client);
    let (sender, mut messages) = mpsc::channel(MESSAGES_MAX);
    let (ask, asked) = watch::channel(app.query.clone());
    let mut sources = JoinSet::new();
    sources.spawn(follow_samples(client.clone(), sender.clone()));
    sources.spawn(follow_pages(client.clone(), asked, sender.clone()));
    sources.spawn(follow_status(client, sender.clone()));
    let ended = end_signal()?;

    let mut screen = Screen::enter()?;
    std::thread::Builder::new().name("idalloc-keys".to_owned()).spawn(move || follow_keys(&sender))?;
    let shown = show(&mut screen.terminal, &mut app, &mut messages, &ask);
    tokio::select! {
        outcome = shown => Ok(outcome?),
        () = ended => Ok(()),
        // They end with us, or by a panic, which has given the terminal back already.
        Some(ended) = sources.join_next() => Ok(ended.map_err(io::Error::other)?),
    }
}

/// The terminal while it is ours. Dropping it gives it back as it was; a panic does, too, before its message is written.
struct Screen {
    terminal: DefaultTerminal,
}

impl Screen {
    fn enter() -> io::Result<Screen> {
        ratatui::try_init().map(|terminal| Screen { terminal })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Draws what happens, until the operator quits.
async fn show(
    terminal: &mut DefaultTerminal,
    app: &mut App,
    messages: &mut mpsc::Receiver<Message>,
    ask: &watch::Sender<Query>,
) -> io::Result<()> {
    let mut redraw = interval(REDRAW_INTERVAL);
    redraw.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        app.resize(view::rows(terminal.size()?.into()));
        ask.send_if_modified(|query| {
            let is_new = *query != app.query;
            query.clone_from(&app.query);
            is_new
        });
        terminal.draw(|frame| view::draw(frame, app, Instant::now()))?;
        let mut next = tokio::select! {
            Some(message) = messages.recv() => Some(message),
            _ = redraw.tick() => None,
        };
        // All that is there already, in one picture.
        while let Some(message) = next {
            if app.update(message, Instant::now()) == Flow::Quit {
                return Ok(());
            }
            next = messages.try_recv().ok();
        }
    }
}

/// Ends with the first signal that would end the program: the terminal must be given back first.
fn end_signal() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut quit = signal(SignalKind::quit())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
            _ = quit.recv() => {}
        }
    })
}

/// Passes keys on. Ends with the program.
fn follow_keys(sender: &mpsc::Sender<Message>) {
    while let Ok(event) = event::read() {
        let message = match event {
            Event::Key(key) => Message::Key(key),
            Event::Resize(..) => Message::Redraw,
            _ => continue,
        };
        if sender.blocking_send(message).is_err() {
            return;
        }
    }
}

/// Follows the samples, and takes the stream up again when it breaks.
async fn follow_samples(client: Arc<Client>, sender: mpsc::Sender<Message>) {
    loop {
        let trouble = match samples(&client, &sender).await {
            Ok(()) => return,
            Err(trouble) => trouble.to_string(),
        };
        if sender.send(Message::NoSamples(trouble)).await.is_err() {
            return;
        }
        sleep(RECONNECT_PAUSE).await;
    }
}

/// Passes samples on until nobody takes them, or the stream breaks.
async fn samples(client: &Client, sender: &mpsc::Sender<Message>) -> Result<(), ClientError> {
    let mut events = client.events().await?;
    loop {
        let event = events.next().await?;
        let unexpected = |error| ClientError::Unexpected(format!("event {}: {error}", event.name));
        let message = match event.name.as_str() {
            "history" => {
                let samples: Vec<Sample> = serde_json::from_str(&event.data).map_err(unexpected)?;
                Message::History(samples)
            }
            "sample" => Message::Sample(serde_json::from_str(&event.data).map_err(unexpected)?),
            _ => continue,
        };
        if sender.send(message).await.is_err() {
            return Ok(());
        }
    }
}

/// Asks for the tags to be shown: each second, and at once when others are.
async fn follow_pages(client: Arc<Client>, mut asked: watch::Receiver<Query>, sender: mpsc::Sender<Message>) {
    loop {
        let query = asked.borrow_and_update().clone();
        let message = match client.get::<Page>(&query.target()).await {
            Ok(page) => Message::Page(query, page),
            Err(trouble) => Message::NoPage(trouble.to_string()),
        };
        if sender.send(message).await.is_err() {
            return;
        }
        if let Ok(Err(_)) = timeout(PAGE_INTERVAL, asked.changed()).await {
            return;
        }
    }
}

/// Asks for the status from time to time. That it cannot be had is seen by the others.
async fn follow_status(client: Arc<Client>, sender: mpsc::Sender<Message>) {
    loop {
        sleep(STATUS_INTERVAL).await;
        if let Ok(status) = client.get("/api/status").await
            && sender.send(Message::Status(status)).await.is_err()
        {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use pty_process::blocking::{Command, open};

    use super::*;

    /// The other half of the next test.
    #[test]
    #[ignore = "draws on a terminal of its own, which the next test gives it"]
    fn draws_and_panics() {
        let mut screen = Screen::enter().expect("a terminal");
        let drawn = screen.terminal.draw(|frame| frame.render_widget("drawn", frame.area()));
        drawn.map(drop).expect("no error");
        panic!("on purpose");
    }

    #[test]
    fn a_panic_gives_the_terminal_back_before_its_message() {
        let (mut pty, pts) = open().expect("a terminal");
        pty.resize(pty_process::Size::new(24, 80)).expect("resize the terminal");
        let this_program = std::env::current_exe().expect("the path of the tests");
        let test = "cli::top::tests::draws_and_panics";
        let command = Command::new(this_program).args(["--ignored", "--exact", "--nocapture", test]);
        let mut child = command.env("TERM", "xterm").env("RUST_BACKTRACE", "0").spawn(pts).expect("start it");
        let mut bytes = Vec::new();
        // The end of a terminal is an error, after all that was written.
        let _ = pty.read_to_end(&mut bytes);
        assert!(!child.wait().expect("its status").success());
        let written = String::from_utf8_lossy(&bytes);
        let (_, after) =
            written.split_once("drawn").unwrap_or_else(|| panic!("nothing is drawn: {written:?}"));
        let left_at = after.find("\u{1b}[?1049l").unwrap_or_else(|| panic!("it stays: {after:?}"));
        assert!(after.find("on purpose").is_some_and(|message_at| message_at > left_at), "{after:?}");
        assert!(after.contains("\u{1b}[?25h"), "the cursor is shown: {after:?}");
    }
}
