//! The manual: one page with all commands to read at once, or a page for each of them to install.

use crate::cli::Cli;
use crate::{Failure, Unattachable};
use clap::CommandFactory;
use clap_mangen::Man;
use std::io::Write;
use std::path::Path;

/// One page: that of the program, then a section for each command. It names no other page.
pub(crate) fn page(to: &mut impl Write) -> Result<(), Failure> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let page = Man::new(command.clone()).section("1");
    page.render_title(to)?;
    page.render_name_section(to)?;
    page.render_synopsis_section(to)?;
    page.render_description_section(to)?;
    page.render_options_section(to)?;
    for command in command.get_subcommands() {
        let name = command.get_name().to_uppercase();
        writeln!(to, ".SH \"{name}\"")?;
        let page = Man::new(command.clone());
        page.render_synopsis_section(to)?;
        page.render_description_section(to)?;
        page.render_options_section(to)?;
    }
    page.render_version_section(to)?;
    Ok(())
}

/// A file for the program and one for each command, in a directory that exists. Each names the
/// others, and no page that is not there.
pub(crate) fn pages(directory: &Path) -> Result<(), Failure> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let mut all = vec![command.clone()];
    all.extend(command.get_subcommands().cloned());
    for command in all {
        let is_program = command.has_subcommands();
        let page = Man::new(command).section("1");
        let path = directory.join(page.get_filename());
        let mut bytes = Vec::new();
        page.render(&mut bytes)?;
        if !is_program {
            writeln!(bytes, ".SH \"SEE ALSO\"\n\\fBring\\-dump\\fR(1)")?;
        }
        std::fs::write(&path, bytes)
            .map_err(|error| Unattachable(format!("{}: {error}", path.display())))?;
    }
    Ok(())
}
