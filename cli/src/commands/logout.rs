//! `wwproxy logout`

use crate::{access::Access, error::UsageError, output::print_message, profiles::Profiles};

/// Remove a profile: the default one, or --profile
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  wwproxy logout\n  wwproxy logout --profile test")]
pub(crate) struct Logout;

impl Logout {
    #[allow(clippy::unused_self, reason = "every command runs itself")]
    pub(crate) fn run(self, access: &Access) -> anyhow::Result<()> {
        let mut profiles = Profiles::edit()?;
        let name = access.profile_name()?.or_else(|| profiles.default().map(str::to_owned));
        let name =
            name.ok_or_else(|| UsageError("there is no default profile; name one with --profile".into()))?;
        let was_default = profiles.default() == Some(&*name);
        profiles.remove(&name)?;
        profiles.write()?;
        let consequence = if was_default {
            "; there is no default profile now (`wwproxy profile use NAME` sets one)"
        } else {
            ""
        };
        print_message(&format!("removed profile {name}{consequence}"));
        Ok(())
    }
}
