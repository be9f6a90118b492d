//! The two lines of `crates/handlers/src/lib.rs` that a room needs.

use std::collections::BTreeSet;

/// Below this line are the owner's rooms.
const YOURS: &str = "// Yours.";

/// The line that names the module.
pub(crate) fn module(name: &str) -> String {
    format!("mod {name};")
}

/// The line that adds its handlers.
pub(crate) fn merge(name: &str) -> String {
    format!(".merge({name}::router(env)?)")
}

/// The file with both lines; `None` where it does not look as expected.
pub(crate) fn wired(lib: &str, name: &str) -> Option<String> {
    let end = if lib.contains("\r\n") { "\r\n" } else { "\n" };
    let mut lines: Vec<String> = lib.lines().map(str::to_owned).collect();

    let mut yours = lines.iter().enumerate().filter(|(_, line)| line.trim() == YOURS).map(|(index, _)| index);
    let (Some(yours), None) = (yours.next(), yours.next()) else { return None };
    let next = lines.get(yours + 1)?.trim_start();
    if !next.starts_with(".merge(") && !next.starts_with(')') {
        return None;
    }
    let comment = lines.get(yours)?;
    let indent = comment.get(..comment.len() - comment.trim_start().len())?;
    let merge = format!("{indent}{}", merge(name));
    lines.insert(yours + 1, merge);

    let modules: Vec<_> =
        lines.iter().enumerate().filter_map(|(at, line)| Some((at, module_of(line)?))).collect();
    let after = modules.iter().rfind(|(_, other)| *other < name).map(|(at, _)| at + 1);
    let at = match (after, modules.first()) {
        (Some(at), _) => at,
        (None, Some((first, _))) => *first,
        // All rooms were deleted.
        (None, None) => {
            let first = lines.iter().position(|line| line.starts_with("use "))?;
            lines.insert(first, String::new());
            first
        }
    };
    // The list of handlers is below the modules.
    if at > yours {
        return None;
    }
    lines.insert(at, module(name));
    Some(lines.iter().flat_map(|line| [line, end]).collect())
}

/// The name that a line makes a module of.
fn module_of(line: &str) -> Option<&str> {
    line.strip_prefix("mod ")?.strip_suffix(';')
}

/// The names that a module cannot have: those of the modules, and what is imported.
pub(crate) fn names_in_use(lib: &str) -> BTreeSet<&str> {
    let modules = lib.lines().filter_map(module_of);
    let imports = lib.split("\nuse ").skip(1).filter_map(|rest| rest.split(';').next());
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    modules
        .chain(imports.flat_map(|import| import.split(move |c| !is_name(c))))
        .filter(|name| !name.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIB: &str = "\
//! Yours.

mod badges;
mod enrolments;

use learnink_connectors::{archive, push};
use learnink_webhook::Router;

pub fn router(env: &Env) -> Result<Router, ConfigError> {
    Ok(Router::new()
        .merge(push::router(env)?)
        // Yours.
        .merge(enrolments::router(env)?))
}
";

    #[test]
    fn both_lines_are_where_one_would_write_them() {
        for (name, module) in [
            ("aaa", "\n\nmod aaa;\nmod badges;\nmod enrolments;\n\nuse"),
            ("courses", "\nmod badges;\nmod courses;\nmod enrolments;\n"),
            ("zzz", "\nmod enrolments;\nmod zzz;\n\nuse"),
        ] {
            let wired = wired(LIB, name).unwrap();
            assert!(wired.contains(module), "{wired}");
            let merge =
                format!("\n        // Yours.\n        .merge({name}::router(env)?)\n        .merge(enrol");
            assert!(wired.contains(&merge), "{wired}");
            let lines = wired.lines().filter(|line| !line.contains(name)).collect::<Vec<_>>();
            assert_eq!(lines, LIB.lines().collect::<Vec<_>>());
        }
        let windows = wired(&LIB.replace('\n', "\r\n"), "zzz").unwrap();
        assert_eq!(windows.replace("\r\n", "\n"), wired(LIB, "zzz").unwrap());
    }

    #[test]
    fn a_file_without_rooms_gets_its_first() {
        let lib = LIB.replace("mod badges;\nmod enrolments;\n\n", "");
        let lib = lib.replace("        .merge(enrolments::router(env)?))\n", "    )\n");
        let wired = wired(&lib, "zzz").unwrap();
        assert!(wired.starts_with("//! Yours.\n\nmod zzz;\n\nuse "), "{wired}");
        assert!(wired.contains("        // Yours.\n        .merge(zzz::router(env)?)\n    )\n"), "{wired}");
    }

    #[test]
    fn a_file_that_looks_otherwise_stays_as_it_is() {
        for lib in [
            LIB.replace("// Yours.", "// Mine."),
            LIB.replace("        .merge(push", "        // Yours.\n        .merge(push"),
            LIB.replace("// Yours.\n", "// Yours.\n        // Enrolments first.\n"),
            String::new(),
        ] {
            assert_eq!(wired(&lib, "zzz"), None, "{lib}");
        }
    }

    #[test]
    fn names_in_use_are_modules_and_imports() {
        let names = names_in_use(LIB);
        for name in ["badges", "enrolments", "archive", "push", "Router", "learnink_webhook"] {
            assert!(names.contains(name), "{name}: {names:?}");
        }
        assert!(!names.contains("router") && !names.contains(""), "{names:?}");
    }
}
