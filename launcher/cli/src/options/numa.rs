//! `-numa node[,mem=size][,cpus=first[-last]][,nodeid=number]`: how memory and CPUs are spread over nodes. What the options leave open is
//! split equally, once the numbers of both are known.

use bulkhead_config::NumaNode;

use crate::draft::Draft;
use crate::error::{OptionError, Stop};
use crate::options::Given;
use crate::options::params::{Params, decimal, split_commas};

/// Most nodes: as many as QEMU has.
const NODES_MAX: usize = 64;
/// Equal parts end at multiples of this, which guests need between nodes.
const BORDER: u64 = 8 << 20;

/// One `-numa`.
#[derive(Clone, Debug)]
pub struct NodeRequest {
    /// Its spelling, for messages.
    given: String,
    id: usize,
    bytes: Option<u64>,
    /// First and last.
    cpus: Option<(u64, u64)>,
}

/// Bytes of a size in megabytes, or with a suffix.
fn size(text: &str) -> Option<u64> {
    let (digits, shift) = if let Some(digits) = text.strip_suffix(['G', 'g']) {
        (digits, 30)
    } else {
        (text.strip_suffix(['M', 'm']).unwrap_or(text), 20)
    };
    decimal(digits, 1..=u64::MAX >> shift).ok().map(|units| units << shift)
}

/// `-numa`.
pub fn numa(draft: &mut Draft, given: &Given) -> Result<(), Stop> {
    let items = split_commas(given.value);
    let Some((first, rest)) = items.split_first().filter(|(first, _)| *first == "node") else {
        return Err(given.bad("must begin with \"node\"").into());
    };
    debug_assert_eq!(first, "node");
    let mut params = Params::new(given, rest, &["mem", "cpus", "nodeid"])?;
    let bytes = match params.text("mem")? {
        None => None,
        Some(text) => Some(size(&text).ok_or_else(|| {
            given.bad(format!("mem={text}: not a memory size in megabytes (suffix M or G allowed)"))
        })?),
    };
    let cpus = match params.text("cpus")? {
        None => None,
        Some(text) => {
            let (first, last) = text.split_once('-').unwrap_or((&text, &text));
            let number = |text: &str| decimal(text, 0..=254);
            match (number(first), number(last)) {
                (Ok(first), Ok(last)) if first <= last => Some((first, last)),
                (Ok(_), Ok(_)) => {
                    return Err(given.bad(format!("cpus={text}: ends before it begins")).into());
                }
                (Err(why), _) | (_, Err(why)) => return Err(given.bad(format!("cpus={text}: {why}")).into()),
            }
        }
    };
    let id = match params.number("nodeid", 0..=NODES_MAX as u64 - 1)? {
        Some(id) => id as usize,
        None => draft.nodes.len(),
    };
    if draft.nodes.len() == NODES_MAX {
        return Err(given.bad(format!("at most {NODES_MAX} nodes")).into());
    }
    if draft.nodes.iter().any(|node| node.id == id) {
        return Err(given.bad(format!("node {id} given twice")).into());
    }
    draft.nodes.push(NodeRequest { given: given.shown(), id, bytes, cpus });
    Ok(())
}

/// The nodes of a machine with this memory and so many CPUs.
///
/// # Errors
/// When they do not fit it.
pub fn spread(requests: Vec<NodeRequest>, ram_bytes: u64, cpus: u32) -> Result<Vec<NumaNode>, OptionError> {
    let mut requests = requests;
    requests.sort_by_key(|request| request.id);
    let mut nodes: Vec<NumaNode> = Vec::new();
    let mut owners: Vec<Option<usize>> = vec![None; cpus as usize];
    let mut left = ram_bytes;
    for (at, request) in requests.iter().enumerate() {
        let bad = |reason: String| OptionError::Value { what: request.given.clone(), reason };
        if request.id != at {
            return Err(bad(format!("node {at} is missing: numbers begin with 0 and leave none out")));
        }
        let bytes = request.bytes.unwrap_or(0);
        left = left
            .checked_sub(bytes)
            .ok_or_else(|| bad(format!("more memory than the machine's {} MiB (-m)", ram_bytes >> 20)))?;
        for cpu in request.cpus.map_or(0..0, |(first, last)| first..last.saturating_add(1)) {
            match owners.get_mut(cpu as usize) {
                None => return Err(bad(format!("there is no CPU {cpu}, only {cpus} (-smp)"))),
                Some(Some(other)) => return Err(bad(format!("CPU {cpu} belongs to node {other} already"))),
                Some(owner) => *owner = Some(at),
            }
        }
        nodes.push(NumaNode { bytes, cpus: Vec::new() });
    }
    let open: Vec<usize> =
        requests.iter().filter(|request| request.bytes.is_none()).map(|request| request.id).collect();
    if open.is_empty()
        && left != 0
        && let Some(last) = requests.last()
    {
        let reason = format!("{} MiB of the machine's memory (-m) belong to no node", left >> 20);
        return Err(OptionError::Value { what: last.given.clone(), reason });
    }
    for (index, id) in open.iter().enumerate() {
        let rest = (open.len() - index) as u64;
        let part = if rest == 1 { left } else { left / rest / BORDER * BORDER };
        left -= part;
        if let Some(node) = nodes.get_mut(*id) {
            node.bytes = part;
        }
    }
    let open: Vec<usize> =
        requests.iter().filter(|request| request.cpus.is_none()).map(|request| request.id).collect();
    let free = owners.iter_mut().filter(|owner| owner.is_none());
    // With nodes for all that were named, the others belong to the first.
    for (owner, node) in free.zip(if open.is_empty() { &[0][..] } else { &open }.iter().cycle()) {
        *owner = Some(*node);
    }
    for (cpu, owner) in (0u8..).zip(owners) {
        if let Some(node) = owner.and_then(|at| nodes.get_mut(at)) {
            node.cpus.push(cpu);
        }
    }
    Ok(nodes)
}
