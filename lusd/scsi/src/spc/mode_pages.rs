//! The mode pages of a disk: what each says and which of its bits can be changed. MODE SENSE and MODE SELECT read this
//! table; saving is not offered, and all pages are shared by all nexuses.

use crate::LogicalUnit;

/// PAGE CODE of "all pages".
pub(crate) const ALL_PAGES: u8 = 0x3f;
/// SUBPAGE CODE of "all subpages".
pub(crate) const ALL_SUBPAGES: u8 = 0xff;

/// D_SENSE in byte 2 of the Control page.
const D_SENSE: u8 = 0x04;
/// SWP in byte 4 of the Control page.
const SWP: u8 = 0x08;
/// TAS in byte 5 of the Control page.
const TAS: u8 = 0x40;

/// Header of a page in page_0 format, and of one in sub_page format.
const PAGE_0_HEADER: usize = 2;
const SUB_PAGE_HEADER: usize = 4;
/// SPF in byte 0.
const SUB_PAGE_FORMAT: u8 = 0x40;

/// The three kinds of value that a page has here (SPC-4; saved values do not exist).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageControl {
    Current,
    Changeable,
    Default,
}

/// The changeable parameters of a logical unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ModeParameters {
    /// D_SENSE: descriptor format sense data.
    pub(crate) descriptor_sense: bool,
    /// SWP: software write protect.
    pub(crate) software_write_protect: bool,
    /// TAS: a task that another nexus ended gets status TASK ABORTED.
    pub(crate) task_aborted_status: bool,
}

/// A mode page: its place, its length, and its bytes.
pub(crate) struct ModePage {
    pub(crate) code: u8,
    pub(crate) subcode: u8,
    /// Bytes with the header.
    len: usize,
    /// Whether the logical unit has it.
    there: fn(&LogicalUnit) -> bool,
    /// Fills in a page of zeroes behind its header.
    fill: fn(&mut [u8], &LogicalUnit, ModeParameters),
    /// Bits that MODE SELECT may change.
    changeable: &'static [(usize, u8)],
}

/// All pages, by page code and subpage code.
static PAGES: [ModePage; 6] = [
    ModePage { code: 0x01, subcode: 0, len: 12, there: always, fill: error_recovery, changeable: &[] },
    ModePage { code: 0x08, subcode: 0, len: 20, there: always, fill: caching, changeable: &[] },
    ModePage {
        code: 0x0a,
        subcode: 0,
        len: 12,
        there: always,
        fill: control,
        changeable: &[(2, D_SENSE), (4, SWP), (5, TAS)],
    },
    ModePage { code: 0x0a, subcode: 1, len: 32, there: always, fill: control_extension, changeable: &[] },
    ModePage {
        code: 0x1c,
        subcode: 0,
        len: 12,
        there: always,
        fill: informational_exceptions,
        changeable: &[],
    },
    ModePage { code: 0x1c, subcode: 2, len: 24, there: has_thresholds, fill: provisioning, changeable: &[] },
];

/// Read-Write Error Recovery (SBC-3): OSDs repair what they cannot read from another copy, and move blocks that the disk
/// cannot write, unasked. How often they try is not for hosts to say.
fn error_recovery(page: &mut [u8], _: &LogicalUnit, _: ModeParameters) {
    const AWRE: u8 = 0x80;
    const ARRE: u8 = 0x40;
    page[2] = AWRE | ARRE;
}

/// Caching (SBC-3). The read cache (RCD=0) is whatever lies below; prefetch is left to it.
fn caching(page: &mut [u8], lu: &LogicalUnit, _: ModeParameters) {
    const WCE: u8 = 0x04;
    if lu.has_write_cache() {
        page[2] = WCE;
    }
}

/// Control (SPC-4).
fn control(page: &mut [u8], _: &LogicalUnit, parameters: ModeParameters) {
    // A task set for each nexus, whose SIMPLE commands run in any order; no log parameter is ever saved.
    const TST_PER_NEXUS: u8 = 0x20;
    const GLTSD: u8 = 0x02;
    const UNRESTRICTED_REORDERING: u8 = 0x10;
    page[2] = TST_PER_NEXUS | GLTSD;
    page[3] = UNRESTRICTED_REORDERING;
    if parameters.descriptor_sense {
        page[2] |= D_SENSE;
    }
    if parameters.software_write_protect {
        page[4] |= SWP;
    }
    if parameters.task_aborted_status {
        page[5] |= TAS;
    }
}

/// Control Extension (SPC-4): access states change implicitly where there are target port groups.
fn control_extension(page: &mut [u8], lu: &LogicalUnit, _: ModeParameters) {
    const IALUAE: u8 = 0x01;
    if lu.is_asymmetric() {
        page[4] = IALUAE;
    }
}

/// Informational Exceptions Control (SPC-4): none are reported here; the cluster's health is Ceph's to tell.
fn informational_exceptions(page: &mut [u8], _: &LogicalUnit, _: ModeParameters) {
    const DEXCPT: u8 = 0x08;
    page[2] = DEXCPT;
}

fn always(_: &LogicalUnit) -> bool {
    true
}

fn has_thresholds(lu: &LogicalUnit) -> bool {
    lu.soft_threshold_percent().is_some()
}

/// Where the one threshold descriptor of the Logical Block Provisioning page begins.
pub(crate) const THRESHOLD_DESCRIPTOR_AT: u64 = 16;

/// Logical Block Provisioning (SBC-4): a soft threshold, armed decreasing, as a percentage of the room that is available; every nexus
/// is told (SITUA=0). It is the administrator's to set.
fn provisioning(page: &mut [u8], lu: &LogicalUnit, _: ModeParameters) {
    const ENABLED: u8 = 0x80;
    const PERCENTAGE: u8 = 0b001 << 3;
    const ARMED_DECREASING: u8 = 0b000;
    /// Code of the log parameter: Available Provisioning Resource Percentage.
    const AVAILABLE_PERCENTAGE: u8 = 0x03;
    let percent = lu.soft_threshold_percent().unwrap_or(0);
    let descriptor = &mut page[THRESHOLD_DESCRIPTOR_AT as usize..];
    descriptor[0] = PERCENTAGE | ARMED_DECREASING | if percent > 0 { ENABLED } else { 0 };
    descriptor[1] = AVAILABLE_PERCENTAGE;
    descriptor[7] = percent; // THRESHOLD COUNT, the last of 4 bytes
}

/// The mode pages that a logical unit may have, by page code and subpage code.
pub(crate) fn pages() -> impl Iterator<Item = (u8, u8)> {
    PAGES.iter().map(|page| (page.code, page.subcode))
}

/// Those of them that this one has.
pub(crate) fn pages_of(lu: &LogicalUnit) -> impl Iterator<Item = &'static ModePage> {
    PAGES.iter().filter(move |page| (page.there)(lu))
}

impl ModePage {
    /// The page of a code and subcode, if the logical unit has it.
    pub(crate) fn find(lu: &LogicalUnit, code: u8, subcode: u8) -> Option<&'static ModePage> {
        pages_of(lu).find(|page| page.code == code && page.subcode == subcode)
    }

    /// Bytes of the page's header.
    pub(crate) fn header_len(&self) -> usize {
        if self.subcode == 0 { PAGE_0_HEADER } else { SUB_PAGE_HEADER }
    }

    /// The page's bytes (PS=0).
    pub(crate) fn bytes(&self, lu: &LogicalUnit, control: PageControl) -> Vec<u8> {
        let mut page = vec![0; self.len];
        match control {
            PageControl::Current => (self.fill)(&mut page, lu, ModeParameters::current(lu)),
            PageControl::Default => (self.fill)(&mut page, lu, ModeParameters::default()),
            PageControl::Changeable => {
                for (at, mask) in self.changeable {
                    page[*at] = *mask;
                }
            }
        }
        page[0] = self.code;
        if self.subcode == 0 {
            page[1] = (self.len - PAGE_0_HEADER) as u8;
        } else {
            page[0] |= SUB_PAGE_FORMAT;
            page[1] = self.subcode;
            page[2..4].copy_from_slice(&((self.len - SUB_PAGE_HEADER) as u16).to_be_bytes());
        }
        page
    }
}

impl ModeParameters {
    pub(crate) fn current(lu: &LogicalUnit) -> ModeParameters {
        ModeParameters {
            descriptor_sense: lu.sense_format() == crate::SenseFormat::Descriptor,
            software_write_protect: lu.software_write_protect(),
            task_aborted_status: lu.task_aborted_status(),
        }
    }

    /// Takes over the changeable bits of a page that was sent.
    pub(crate) fn take_from(&mut self, page: &ModePage, bytes: &[u8]) {
        if (page.code, page.subcode) == (0x0a, 0) {
            self.descriptor_sense = bytes[2] & D_SENSE != 0;
            self.software_write_protect = bytes[4] & SWP != 0;
            self.task_aborted_status = bytes[5] & TAS != 0;
        }
    }

    pub(crate) fn apply(self, lu: &LogicalUnit) {
        lu.set_descriptor_sense(self.descriptor_sense);
        lu.set_software_write_protect(self.software_write_protect);
        lu.set_task_aborted_status(self.task_aborted_status);
    }
}

/// Header sizes: MODE SENSE (6) and MODE SENSE (10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderForm {
    Short,
    Long,
}

impl HeaderForm {
    pub(crate) const fn bytes(self) -> usize {
        match self {
            HeaderForm::Short => 4,
            HeaderForm::Long => 8,
        }
    }
}

/// Bytes of the short and the long LBA mode parameter block descriptor (SBC-3).
pub(crate) const SHORT_DESCRIPTOR_BYTES: usize = 8;
pub(crate) const LONG_DESCRIPTOR_BYTES: usize = 16;

/// The short LBA block descriptor; a count that does not fit is all ones.
pub(crate) fn short_descriptor(lu: &LogicalUnit) -> [u8; SHORT_DESCRIPTOR_BYTES] {
    let blocks = u32::try_from(lu.blocks()).unwrap_or(u32::MAX);
    // LOGICAL BLOCK LENGTH has 24 bits; byte 4 in front of it is reserved.
    let length = lu.block_size().bytes();
    (u64::from(blocks) << 32 | length).to_be_bytes()
}

/// The long LBA block descriptor.
pub(crate) fn long_descriptor(lu: &LogicalUnit) -> [u8; LONG_DESCRIPTOR_BYTES] {
    (u128::from(lu.blocks()) << 64 | u128::from(lu.block_size().bytes())).to_be_bytes()
}
