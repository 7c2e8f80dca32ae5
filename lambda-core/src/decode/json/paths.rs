//! Which fields of a message go to which columns.

use std::cmp::Ordering;

use crate::error::Error;
use crate::record::{Column, ColumnType, Origin, Table};

/// What is read of an object: its members, and those of objects in it.
#[derive(Debug, Clone, Default)]
pub(super) struct Object {
    members: Vec<Member>,
    /// Indices of members, by key.
    by_key: Vec<usize>,
}

/// A member of an object that is read.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) key: Box<str>,
    /// The key as most messages spell it: between the comma after another member, and its colon.
    pub(super) spelled: Box<str>,
    /// Its number among all members of a message.
    pub(super) number: usize,
    /// The column for its value.
    pub(super) column: Option<Target>,
    /// The only value with which a message is a record.
    pub(super) only: Option<Box<str>>,
    /// What is read of its value.
    pub(super) object: Option<Object>,
}

/// The column for a value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    pub(super) index: usize,
    /// Whether the column takes JSON as it is.
    pub(super) is_json: bool,
}

/// The members that are read of a table's messages.
#[derive(Debug, Clone, Default)]
pub(super) struct Paths {
    pub(super) root: Object,
    /// Number of members, in all objects.
    pub(super) count: usize,
}

impl Paths {
    /// The paths to a table's columns, and to the fields that decide whether a message is a record.
    pub(super) fn of(table: &Table, only: &[(String, String)]) -> Result<Self, Error> {
        let mut paths = Self::default();
        let fields = table.columns().iter().filter(|column| column.origin == Origin::Field);
        let fields = fields.map(|column| &column.field);
        for path in fields.chain(only.iter().map(|(path, _)| path)) {
            let (keys, last) = split(path);
            if last.is_empty() || keys.iter().any(String::is_empty) {
                return Err(Error::misconfigured(
                    format!("{path:?}, a path of {table}, has a part without a name"),
                    "separate names with single points; write a point of a name as \\.",
                ));
            }
        }
        for (path, value) in only {
            let member = paths.member(path);
            if member.only.replace(value.as_str().into()).is_some() {
                return Err(clash(path, table));
            }
        }
        for (index, Column { field, kind, origin, .. }) in table.columns().iter().enumerate() {
            if *origin == Origin::Field {
                let member = paths.member(field);
                let target = Target { index, is_json: *kind == ColumnType::Jsonb };
                if member.column.replace(target).is_some() {
                    return Err(clash(field, table));
                }
            }
        }
        paths.root.sort().map_err(|path| clash(&path, table))?;
        Ok(paths)
    }

    /// The member at a path, which is added if there is none.
    fn member(&mut self, path: &str) -> &mut Member {
        let (keys, last) = split(path);
        let mut object = &mut self.root;
        for key in keys {
            let member = object.member(key, &mut self.count);
            object = member.object.get_or_insert_default();
        }
        object.member(last, &mut self.count)
    }
}

impl Object {
    fn member(&mut self, key: String, count: &mut usize) -> &mut Member {
        let found = self.members.iter().position(|member| *member.key == *key);
        let at = found.unwrap_or_else(|| {
            let number = *count;
            *count += 1;
            self.members.push(Member {
                spelled: format!(",{}:", serde_json::Value::from(&*key)).into(),
                key: key.into(),
                number,
                column: None,
                only: None,
                object: None,
            });
            self.members.len() - 1
        });
        &mut self.members[at]
    }

    /// Prepares the search for keys. Fails with the key of a member that is read as a value and as
    /// an object.
    fn sort(&mut self) -> Result<(), String> {
        self.by_key = (0..self.members.len()).collect();
        self.by_key.sort_by(|one, other| {
            order(self.members[*one].key.as_bytes(), self.members[*other].key.as_bytes())
        });
        for Member { key, column, only, object, .. } in &mut self.members {
            let Some(object) = object else { continue };
            if column.is_some() || only.is_some() {
                return Err(key.as_ref().to_owned());
            }
            object.sort()?;
        }
        Ok(())
    }

    /// The index of the member with this key.
    pub(super) fn find(&self, key: &str) -> Option<usize> {
        let found = self
            .by_key
            .binary_search_by(|index| order(self.members[*index].key.as_bytes(), key.as_bytes()));
        found.ok().map(|at| self.by_key[at])
    }

    /// The member of this index.
    #[inline]
    pub(super) fn get(&self, index: usize) -> Option<&Member> {
        self.members.get(index)
    }

    /// The first column that is read of the object or of one in it.
    pub(super) fn first_column(&self) -> Option<usize> {
        self.members.iter().find_map(|member| match (&member.column, &member.object) {
            (Some(target), _) => Some(target.index),
            (None, Some(object)) => object.first_column(),
            (None, None) => None,
        })
    }
}

/// The order in which keys are searched: most differ in length.
fn order(one: &[u8], other: &[u8]) -> Ordering {
    one.len().cmp(&other.len()).then_with(|| one.cmp(other))
}

/// The keys of a path, which points separate; a point after a backslash is part of its key.
fn split(path: &str) -> (Vec<String>, String) {
    let (mut keys, mut key) = (Vec::new(), String::new());
    let mut characters = path.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '.' => keys.push(std::mem::take(&mut key)),
            '\\' if characters.peek() == Some(&'.') => key.extend(characters.next()),
            character => key.push(character),
        }
    }
    (keys, key)
}

fn clash(path: &str, table: &Table) -> Error {
    Error::misconfigured(
        format!("the path {path} of {table} is read twice, or as a value and as an object"),
        "give each column a path of its own",
    )
}
