//! Inputs made from seeds, the same ones on every run.

/// What the grammars under test are made of.
const PIECES: [&[u8]; 40] = [
    b"tenant_config_",
    b"param_config_",
    b"secret_config_",
    b"a_",
    b"a_b_",
    b"a_b_c_",
    b"/",
    b"..",
    b".",
    b"%2F",
    b"%25",
    b"\n",
    b"\n\n",
    b"?",
    b"&",
    b"=",
    b"\"",
    b"\\",
    b"\\u0000",
    b"\\ud83d",
    b"\\/",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b"-0",
    b"1e400",
    b"18446744073709551616",
    b"9007199254740993",
    b"null",
    b"W/\"1-a\"",
    b"*",
    b"max-age=5",
    b"no-cache",
    b"limit=1",
    b"version=1",
    b"\xc3\xa4",
    b"\xff",
];
/// Longer inputs find nothing more here.
const MAX_BYTES: usize = 4096;

/// Makes inputs from seeds, by a generator that always starts the same.
#[derive(Debug)]
pub struct Mutator<'a> {
    seeds: &'a [Vec<u8>],
    random: fastrand::Rng,
}

impl<'a> Mutator<'a> {
    /// Inputs from `seeds`, of which there is at least one.
    pub fn new(seeds: &'a [Vec<u8>]) -> Self {
        assert!(!seeds.is_empty(), "there are no seeds");
        Self { seeds, random: fastrand::Rng::with_seed(0x7e4a_4712) }
    }

    /// The next input: a seed with one to four changes.
    pub fn next_input(&mut self) -> Vec<u8> {
        let mut input = self.seed().clone();
        for _ in 0..self.random.usize(1..=4) {
            self.change(&mut input);
        }
        input.truncate(MAX_BYTES);
        input
    }

    fn seed(&mut self) -> &'a Vec<u8> {
        &self.seeds[self.random.usize(..self.seeds.len())]
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let (start, end) = self.range(input.len());
        match self.random.u8(..7) {
            0 => drop(input.drain(start..end)),
            1 => input.truncate(start),
            2 => {
                let again = input[start..end].to_vec();
                input.splice(start..start, again);
            }
            3 => {
                let other = self.seed();
                let (from, to) = self.range(other.len());
                input.splice(start..end, other[from..to].iter().copied());
            }
            4 => {
                if let Some(byte) = input.get_mut(start) {
                    *byte = self.random.u8(..);
                }
            }
            5 => {
                if let Some(byte) = input.get_mut(start) {
                    *byte ^= 1 << self.random.u8(..8);
                }
            }
            _ => {
                let piece = PIECES[self.random.usize(..PIECES.len())];
                let times = if self.random.u8(..16) == 0 { self.random.usize(1..=80) } else { 1 };
                input.splice(start..start, piece.repeat(times));
            }
        }
    }

    /// A range within `length`; mostly a short one.
    fn range(&mut self, length: usize) -> (usize, usize) {
        let start = self.random.usize(..=length);
        let longest = if self.random.bool() { 8 } else { length };
        (start, start + self.random.usize(..=longest.min(length - start)))
    }
}
