//! Logical unit numbers: the 8 byte wire form and back (SAM-5 4.7).

use std::fmt;

/// The number under which a host sees a logical unit: 0 to [`Lun::MAX`], single level; or [`Lun::REPORT_LUNS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lun(u16);

/// Highest number of the peripheral device addressing method (8 bits, bus 0).
const PERIPHERAL_MAX: u16 = 0xff;
/// Address method 00b in bits 7:6 of byte 0: peripheral device.
const METHOD_PERIPHERAL: u8 = 0b00;
/// Address method 01b: flat space.
const METHOD_FLAT: u8 = 0b01;
/// Address method 11b, LENGTH 00b, EXTENDED ADDRESS METHOD 0001b: well-known logical units (SAM-5 4.7.7.5.2).
const WELL_KNOWN: u8 = 0xc1;

impl Lun {
    /// LUN 0, which answers REPORT LUNS even where no logical unit is mapped to it.
    pub const ZERO: Lun = Lun(0);
    /// The REPORT LUNS well-known logical unit (SPC-4 8.2): one of each target, that no logical unit is mapped to.
    pub const REPORT_LUNS: Lun = Lun(u16::from_be_bytes([WELL_KNOWN, 0x01]));
    /// Highest number of a logical unit: flat space addressing has 14 bits.
    pub const MAX: u16 = 0x3fff;

    /// `None` above [`Lun::MAX`].
    pub const fn new(number: u16) -> Option<Lun> {
        if number <= Lun::MAX { Some(Lun(number)) } else { None }
    }

    /// The plain number; of [`Lun::REPORT_LUNS`] C101h, as Linux counts it.
    pub const fn number(self) -> u16 {
        self.0
    }

    /// The wire form: peripheral addressing up to 255, flat space above (what Linux, Windows and ESXi expect).
    pub const fn to_wire(self) -> [u8; 8] {
        let [high, low] = self.0.to_be_bytes();
        if high == WELL_KNOWN {
            return [high, low, 0, 0, 0, 0, 0, 0];
        }
        let method = if self.0 <= PERIPHERAL_MAX { METHOD_PERIPHERAL } else { METHOD_FLAT };
        [method << 6 | high, low, 0, 0, 0, 0, 0, 0]
    }

    /// Reads the wire form: peripheral (bus 0) and flat space addressing of a single level, and [`Lun::REPORT_LUNS`]. `None` for
    /// anything else, other well-known logical units too: no logical unit can be there.
    pub const fn from_wire(wire: [u8; 8]) -> Option<Lun> {
        let [high, low, rest @ ..] = wire;
        if u64::from_be_bytes([0, 0, rest[0], rest[1], rest[2], rest[3], rest[4], rest[5]]) != 0 {
            return None;
        }
        match high >> 6 {
            METHOD_PERIPHERAL if high == 0 => Some(Lun(low as u16)),
            METHOD_FLAT => Some(Lun(u16::from_be_bytes([high & 0x3f, low]))),
            _ if high == WELL_KNOWN && low == Lun::REPORT_LUNS.0 as u8 => Some(Lun::REPORT_LUNS),
            _ => None,
        }
    }
}

impl fmt::Display for Lun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_survives_the_wire() {
        for number in 0..=Lun::MAX {
            let lun = Lun::new(number).unwrap();
            assert_eq!(Lun::from_wire(lun.to_wire()), Some(lun));
        }
        assert_eq!(Lun::new(Lun::MAX + 1), None);
    }

    #[test]
    fn low_numbers_are_peripheral_and_accepted_as_flat() {
        assert_eq!(Lun(255).to_wire(), [0, 255, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Lun(256).to_wire(), [0x41, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Lun::from_wire([0x40, 5, 0, 0, 0, 0, 0, 0]), Some(Lun(5)));
    }

    #[test]
    fn one_well_known_logical_unit_has_a_number() {
        assert_eq!(Lun::REPORT_LUNS.to_wire(), [0xc1, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Lun::from_wire(Lun::REPORT_LUNS.to_wire()), Some(Lun::REPORT_LUNS));
        assert_eq!(Lun::new(Lun::REPORT_LUNS.number()), None, "nothing can be mapped there");
        assert_eq!(Lun::REPORT_LUNS.to_string(), "49409");
    }

    #[test]
    fn other_forms_name_no_logical_unit() {
        for wire in [
            [0x01, 0, 0, 0, 0, 0, 0, 0], // peripheral, bus 1
            [0xc1, 2, 0, 0, 0, 0, 0, 0], // ACCESS CONTROLS well-known logical unit
            [0xc1, 1, 0, 1, 0, 0, 0, 0],
            [0xd1, 1, 0, 0, 0, 0, 0, 0],
            [0x80, 0, 0, 0, 0, 0, 0, 0], // logical unit addressing
            [0, 0, 0, 1, 0, 0, 0, 0],    // second level
            [0, 0, 0, 0, 0, 0, 0, 1],
        ] {
            assert_eq!(Lun::from_wire(wire), None);
        }
    }
}
