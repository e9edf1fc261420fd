//! `orderd completions`: what a shell needs to complete the words of an orderd command. Made from the table of subcommands and the
//! settings, so nothing is there that is not understood.

use super::arguments::Given;
use super::table::{SUBCOMMANDS, Subcommand};
use super::{nearest, output, required};
use crate::Status;
use crate::config::Config;
use crate::error::Error;

/// Its row.
pub const SUBCOMMAND: Subcommand = Subcommand {
    name: "completions",
    usage: "bash | zsh | fish",
    summary: "print what has a shell complete orderd's words",
    more: "bash: orderd completions bash > ~/.local/share/bash-completion/completions/orderd\n\
           zsh: orderd completions zsh > _orderd, in a folder of $fpath\n\
           fish: orderd completions fish > ~/.config/fish/completions/orderd.fish",
    words: 1..=1,
    flags: &[],
    settings: Some(&[]),
    run,
};

const SHELLS: [&str; 3] = ["bash", "zsh", "fish"];

fn run(_config: &Config, given: &Given) -> Result<(), Error> {
    let shell = required(given.word(0)?, &SUBCOMMAND)?;
    let script = match shell {
        "bash" => bash(),
        "zsh" => zsh(),
        "fish" => fish(),
        _ => {
            let hint = nearest::hint(shell, SHELLS);
            return Err(Error::Usage(format!("{shell:?} is no shell that is known here{hint}; use {}", SHELLS.join(", "))));
        }
    };
    output::write(&script).map(drop)
}

/// What follows a flag.
enum Value {
    None,
    File,
    /// One of these.
    Of(Vec<&'static str>),
    Any,
}

/// A flag of a subcommand, as a shell sees it.
struct Flag {
    name: &'static str,
    does: &'static str,
    value: Value,
}

fn flags(subcommand: &Subcommand) -> Vec<Flag> {
    let own = subcommand.flags.iter().map(|flag| (flag.name, flag.help, flag.value));
    let settings = subcommand.settings().map(|setting| (setting.flag, setting.help, setting.value));
    let all = own.chain(settings).chain([("help", "how it is used", "")]);
    all.map(|(name, does, value)| {
        let value = match (name, value) {
            (_, "") => Value::None,
            (_, "FILE") => Value::File,
            ("status", _) => Value::Of(Status::ALL.map(Status::as_str).to_vec()),
            ("log-level", _) => Value::Of(["off", "error", "warn", "info", "debug", "trace"].to_vec()),
            _ => Value::Any,
        };
        Flag { name, does, value }
    })
    .collect()
}

/// The words that a subcommand takes, where they are known beforehand.
fn words(subcommand: &Subcommand) -> Vec<&'static str> {
    match subcommand.name {
        "help" => SUBCOMMANDS.iter().map(|subcommand| subcommand.name).collect(),
        "completions" => SHELLS.to_vec(),
        _ => Vec::new(),
    }
}

/// Whether it takes the name of a file.
fn takes_file(subcommand: &Subcommand) -> bool {
    *subcommand.words.end() > 0 && subcommand.usage.contains("FILE")
}

fn names() -> Vec<&'static str> {
    SUBCOMMANDS.iter().map(|subcommand| subcommand.name).collect()
}

fn dashed(flags: &[Flag]) -> Vec<String> {
    flags.iter().map(|flag| format!("--{}", flag.name)).collect()
}

fn bash() -> String {
    let mut values = String::new();
    let mut seen: Vec<&str> = Vec::new();
    for flag in SUBCOMMANDS.iter().flat_map(|subcommand| flags(subcommand)) {
        if seen.contains(&flag.name) {
            continue;
        }
        seen.push(flag.name);
        let reply = match flag.value {
            Value::None => continue,
            Value::File => "$(compgen -f -- \"$current\")".to_string(),
            Value::Of(words) => format!("$(compgen -W '{}' -- \"$current\")", words.join(" ")),
            Value::Any => String::new(),
        };
        values += &format!("    --{}) COMPREPLY=({reply}); return ;;\n", flag.name);
    }
    let mut cases = String::new();
    for subcommand in SUBCOMMANDS {
        let all = [dashed(&flags(subcommand)), words(subcommand).into_iter().map(String::from).collect()].concat();
        cases += &format!("    {}) words='{}' ;;\n", subcommand.name, all.join(" "));
    }
    let names = names();
    let first = [names.join(" "), dashed(&flags(SUBCOMMANDS[0])).join(" ")].join(" ");
    format!(
        "# bash completion for orderd; made by: orderd completions bash\n\
         _orderd() {{\n  \
         local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}} subcommand= words= word\n  \
         for word in \"${{COMP_WORDS[@]:1:COMP_CWORD-1}}\"; do\n    \
         case $word in\n      {}) subcommand=$word; break ;;\n    esac\n  done\n  \
         COMPREPLY=()\n  \
         case $previous in\n{values}  esac\n  \
         case $subcommand in\n{cases}    *) words='{first} --version' ;;\n  esac\n  \
         COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n\
         }}\n\
         complete -o default -F _orderd orderd\n",
        names.join("|")
    )
}

fn zsh() -> String {
    let described = |name: &str, does: &str| format!("'{name}:{}'", does.replace('\'', "'\\''").replace(':', "\\:"));
    let list: String = SUBCOMMANDS.iter().map(|s| format!("    {}\n", described(s.name, s.summary))).collect();
    let arguments = |subcommand: &Subcommand| {
        let spec = |flag: Flag| {
            let does = flag.does.replace('\'', "'\\''").replace('[', "\\[").replace(']', "\\]").replace(':', "\\:");
            let value = match flag.value {
                Value::None => String::new(),
                Value::File => format!(":{}:_files", flag.name),
                Value::Of(words) => format!(":{}:({})", flag.name, words.join(" ")),
                Value::Any => format!(":{}:", flag.name),
            };
            // The same one again is fine where a flag may be given several times; elsewhere the last one counts.
            format!(" \\\n        '*--{}[{does}]{value}'", flag.name)
        };
        let flags: String = flags(subcommand).into_iter().map(spec).collect();
        let words = words(subcommand);
        let words = match words.is_empty() {
            true if takes_file(subcommand) => " \\\n        ':file:_files'".into(),
            true => String::new(),
            false => format!(" \\\n        ':word:({})'", words.join(" ")),
        };
        flags + &words
    };
    let cases: String = SUBCOMMANDS.iter().map(|s| format!("    {})\n      _arguments{} ;;\n", s.name, arguments(s))).collect();
    format!(
        "#compdef orderd\n# made by: orderd completions zsh\n\
         _orderd() {{\n  \
         local -a subcommands\n  subcommands=(\n{list}  )\n  \
         if (( CURRENT == 2 )) && [[ $words[2] != -* ]]; then\n    _describe subcommand subcommands\n    return\n  fi\n  \
         local subcommand=$words[2]\n  \
         if (( ${{+words[2]}} )) && [[ $words[2] != -* ]]; then\n    shift words\n    (( CURRENT-- ))\n  else\n    subcommand=serve\n  fi\n  \
         case $subcommand in\n{cases}  esac\n\
         }}\n\
         if [[ $zsh_eval_context[-1] == loadautofunc ]]; then\n  _orderd \"$@\"\nelse\n  compdef _orderd orderd\nfi\n"
    )
}

fn fish() -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
    let mut text = "# fish completion for orderd; made by: orderd completions fish\ncomplete -c orderd -f\n".to_string();
    for subcommand in SUBCOMMANDS {
        let does = quoted(subcommand.summary);
        text += &format!("complete -c orderd -n __fish_use_subcommand -a {} -d {does}\n", subcommand.name);
    }
    for (at, subcommand) in SUBCOMMANDS.iter().enumerate() {
        let mut conditions = vec![format!("'__fish_seen_subcommand_from {}'", subcommand.name)];
        // What orderd alone does.
        conditions.extend((at == 0).then(|| "__fish_use_subcommand".to_string()));
        for condition in conditions {
            for flag in flags(subcommand) {
                let value = match &flag.value {
                    Value::None => String::new(),
                    Value::File => " -r -F".into(),
                    Value::Of(words) => format!(" -x -a {}", quoted(&words.join(" "))),
                    Value::Any => " -x".into(),
                };
                text += &format!("complete -c orderd -n {condition} -l {}{value} -d {}\n", flag.name, quoted(flag.does));
            }
            let words = words(subcommand);
            if takes_file(subcommand) {
                text += &format!("complete -c orderd -n {condition} -F\n");
            } else if !words.is_empty() {
                text += &format!("complete -c orderd -n {condition} -a {}\n", quoted(&words.join(" ")));
            }
        }
    }
    text
}
