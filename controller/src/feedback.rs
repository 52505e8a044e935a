//! PULL REQUEST → COMMENT, STATUS. Where people look before they merge it, a pull request says what it grants and takes away,
//! which sessions that concerns now and what evidence is wanted; afterwards, when it was in force. [`say`] writes the text,
//! pure; [`run`] asks the forge and speaks there, beside every pass: no grant and no revocation waits for it.
//!
//! Only a comment of our own is ever edited. Whatever comes from a pull request stands in code spans, where it links,
//! mentions and formats nothing. Somebody who may not write to the repository is told how many sessions match, and not which.

pub mod say;

pub mod run;
