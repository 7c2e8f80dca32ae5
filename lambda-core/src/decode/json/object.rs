//! Reads one message: its fields go into the row as they come.

use std::borrow::Cow;

use super::paths::{Member, Object, Paths, Target};
use super::scan::{Expected, Scanner};
use crate::dead_letter::{Reason, Reject};
use crate::decode::spelled::Spelled;
use crate::record::RowWriter;

/// A message while it is read.
pub(super) struct Reading<'m, 'r, 't> {
    scanner: Scanner<'m>,
    row: &'r mut RowWriter<'t>,
    /// Keys of the object that is read, and of those around it, that are no members.
    unknown: Vec<Cow<'m, str>>,
    /// The first key that an object has twice.
    twice: Option<Reject>,
    /// Fields that have the only value with which the message is a record.
    matching: usize,
}

/// A message that was read.
pub(super) struct Read {
    /// Number of fields that have the only value with which it is a record.
    pub(super) matching: usize,
    /// The first key that an object has twice.
    pub(super) twice: Option<Reject>,
}

impl<'m, 'r, 't> Reading<'m, 'r, 't> {
    /// Begins a message.
    pub(super) fn new(json: &'m str, row: &'r mut RowWriter<'t>) -> Self {
        let scanner = Scanner::new(json);
        Self { scanner, row, unknown: Vec::new(), twice: None, matching: 0 }
    }

    /// Reads the message.
    pub(super) fn message(mut self, paths: &Paths) -> Result<Read, Reject> {
        self.row.scratch.seen.clear();
        self.row.scratch.seen.resize(paths.count, false);
        let read = self.whole(&paths.root);
        read.map_err(|expected| reject(&self.scanner, expected))?;
        Ok(Read { matching: self.matching, twice: self.twice })
    }

    fn whole(&mut self, root: &Object) -> Result<(), Expected> {
        self.scanner.expect(b'{', Expected::Object)?;
        self.object(root)?;
        self.scanner.end()
    }

    /// Reads an object after its opening bracket.
    fn object(&mut self, object: &Object) -> Result<(), Expected> {
        let outside = self.unknown.len();
        let mut next = 0;
        let mut more = !self.scanner.skip(b'}');
        while more {
            if let Some((index, member)) = self.find(object, next)? {
                next = self.members(object, index, member)?;
            } else {
                self.scanner.value()?;
            }
            more = self.scanner.more(b'}')?;
        }
        if self.unknown.len() > outside {
            let keys = &mut self.unknown[outside..];
            keys.sort_unstable();
            if keys.windows(2).any(|pair| pair[0] == pair[1]) {
                self.twice("a key that is none of the record's fields");
            }
            self.unknown.truncate(outside);
        }
        Ok(())
    }

    /// Reads the value of a member, and the members after it as long as they are in the order of the
    /// table. Returns the index of the next one.
    #[inline]
    fn members<'o>(
        &mut self,
        object: &'o Object,
        mut index: usize,
        mut member: &'o Member,
    ) -> Result<usize, Expected> {
        loop {
            if self.is_new(member) {
                self.member(member)?;
            } else {
                self.scanner.value()?;
            }
            index += 1;
            match object.get(index) {
                Some(next) if self.scanner.skip_text(&next.spelled) => member = next,
                _ => return Ok(index),
            }
        }
    }

    /// Notes a member; false if the object had it before.
    #[inline]
    fn is_new(&mut self, member: &Member) -> bool {
        let seen = std::mem::replace(&mut self.row.scratch.seen[member.number], true);
        if seen {
            self.twice(&member.key);
        }
        !seen
    }

    /// Reads a key, probably that of the member `next`. Nothing if its value is not read.
    #[inline]
    fn find<'o>(
        &mut self,
        object: &'o Object,
        next: usize,
    ) -> Result<Option<(usize, &'o Member)>, Expected> {
        self.scanner.peek();
        match object.get(next) {
            Some(member) if self.scanner.skip_text(&member.spelled[1..]) => {
                Ok(Some((next, member)))
            }
            _ => self.search(object),
        }
    }

    /// Reads any key.
    fn search<'o>(&mut self, object: &'o Object) -> Result<Option<(usize, &'o Member)>, Expected> {
        let key = self.scanner.key()?.unescaped().ok_or(Expected::WholeKey)?;
        let found = object.find(&key).and_then(|index| object.get(index).map(|it| (index, it)));
        if found.is_none() {
            self.unknown.push(key);
        }
        Ok(found)
    }

    #[cold]
    fn twice(&mut self, key: &str) {
        let reject = || Reject::field(Reason::DuplicateKey, key, "expected once");
        self.twice.get_or_insert_with(reject);
    }

    #[inline]
    fn member(&mut self, member: &Member) -> Result<(), Expected> {
        if let Member { column: Some(Target { index, is_json: false }), only: None, .. } = member {
            let value = self.scanner.value()?;
            self.row.set(*index, value);
            return Ok(());
        }
        if let Some(object) = &member.object {
            if self.scanner.skip(b'{') {
                return self.object(object);
            }
            let value = self.scanner.value()?;
            if value != Spelled::Null
                && let Some(index) = object.first_column()
            {
                self.row.reject(index, format_args!("expected an object at {}", member.key));
            }
            return Ok(());
        }
        let begin = self.scanner.here();
        let value = self.scanner.value()?;
        if let Some(only) = &member.only {
            self.matching += usize::from(is(value, only));
        }
        match member.column {
            Some(Target { index, is_json: true }) if value != Spelled::Null => {
                self.row.set(index, Spelled::Json(self.scanner.since(begin)));
            }
            Some(Target { index, .. }) => _ = self.row.set(index, value),
            None => {}
        }
        Ok(())
    }
}

/// Whether a value is spelled like this.
fn is(value: Spelled<'_>, text: &str) -> bool {
    match value {
        Spelled::Bool(value) => text == if value { "true" } else { "false" },
        Spelled::Number(number) => text == number,
        value => value.unescaped().is_some_and(|found| found == text),
    }
}

/// The reject of a message that is no JSON.
fn reject(scanner: &Scanner<'_>, expected: Expected) -> Reject {
    let before = scanner.since(0);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Reject::new(Reason::InvalidJson, format!("{expected} at line {line} column {column}"))
}
