//! The emulator as AWS SDK clients see it. `conformance` holds for other servers, too; the rest is
//! the emulator's own.

#[cfg(test)]
mod clients;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod events;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod lag;
#[cfg(test)]
mod parameters;
#[cfg(test)]
mod persistence;
#[cfg(test)]
mod queues;
#[cfg(test)]
mod readers;
#[cfg(test)]
mod roles;
#[cfg(test)]
mod schedule;
#[cfg(test)]
mod sessions;
#[cfg(test)]
mod wire;
