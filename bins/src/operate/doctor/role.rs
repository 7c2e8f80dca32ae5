//! Check of the role of our login.

use lambda_core::postgres::inspect::privileges::{OurRole, Standing};
use lambda_core::postgres::schema::roles::Access;

use super::finding::{CONFIGURATION, Finding};

const CHECK: &str = "role";

const LOGIN: &str =
    "let loaders log in as DB_LOADER_USER and people as DB_READER_USER (see lambda-db-setup)";

const SETUP: &str = "run lambda-db-setup with this role as DB_LOADER_USER or DB_READER_USER";

/// Checks the role.
pub(super) fn judged(role: &OurRole) -> Finding {
    let name = &role.name;
    match role.standing {
        Standing::Superuser => {
            let found = format!("{name} is a superuser and may do anything");
            Finding::warning(CHECK, found, LOGIN)
        }
        Standing::Owner => {
            Finding::warning(CHECK, format!("{name} owns the tables and may drop them"), LOGIN)
        }
        Standing::NoTables => {
            Finding::skipped(CHECK, format!("{name}; there are no tables to grant it anything on"))
        }
        Standing::Ungranted => {
            let found = format!("{name} may neither store nor read");
            Finding::problem(CHECK, CONFIGURATION, found, SETUP)
        }
        Standing::Granted(access) => granted(role, access),
    }
}

fn granted(OurRole { name, lacks, exceeds, .. }: &OurRole, access: Access) -> Finding {
    if !lacks.is_empty() {
        let found = format!("{name} is a {access} that lacks {}", lacks.join(", "));
        return Finding::problem(CHECK, CONFIGURATION, found, SETUP);
    }
    if !exceeds.is_empty() {
        let found = format!("{name} is a {access} that can also {}", exceeds.join(", "));
        let revoke = match access {
            Access::Loader => "revoke it, from public too: a loader must not remove what it stored",
            Access::Reader => "revoke it, from public too: a reader must see no raw payload",
        };
        return Finding::problem(CHECK, CONFIGURATION, found, revoke);
    }
    Finding::ok(CHECK, format!("{name} has the grants of a {access} and no others"))
}
