//! CPU models and `CPUID`.

use super::*;

fn leaf(rig: &mut Rig, eax: u32) -> [u32; 4] {
    rig.cpu.core.slots[reg::RAX] = u64::from(eax);
    rig.cpu.core.slots[reg::RCX] = 0;
    rig.call(Sys::Cpuid, 0, 0, 0, 0).unwrap();
    let s = &rig.cpu.core.slots;
    [s[reg::RAX] as u32, s[reg::RBX] as u32, s[reg::RCX] as u32, s[reg::RDX] as u32]
}

#[test]
fn every_documented_model_parses_and_advertises_only_what_is_emulated() {
    for name in [
        "486", "pentium", "pentium2", "pentium3", "athlon", "n270", "coreduo", "core2duo", "kvm64", "qemu32",
        "qemu64", "phenom", "max",
    ] {
        let choice = cpuid::parse(name).unwrap();
        assert!(choice.features.iter().zip(cpuid::SUPPORTED).all(|(f, s)| f & !s == 0), "{name}");
        assert!(choice.model.brand.len() <= 48);
    }
    assert!(matches!(cpuid::parse("z80"), Err(cpuid::Refused::Model(_))));
}

#[test]
fn feature_switches_and_overrides_apply() {
    let choice =
        cpuid::parse("qemu64,-sse2,+nonsense,family=6,model=0x1a,stepping=4,vendor=GenuineIntel").unwrap();
    assert_eq!(choice.features[0] >> 26 & 1, 0);
    assert_eq!(choice.warnings, ["CPU feature nonsense not found"]);
    assert_eq!(choice.model.signature(), 0x0001_06a4);
    assert!(choice.model.is_intel());
    assert!(cpuid::parse("qemu64,vendor=short").is_err());
    assert!(cpuid::parse("qemu64,bogus").is_err());
    let choice = cpuid::parse("pentium,+vmx").unwrap();
    assert_eq!(choice.warnings, ["CPU feature vmx is not emulated"]);
    assert_eq!(choice.features[1], 0);
}

#[test]
fn amd_repeats_in_the_extended_leaf_what_is_switched_on_or_off() {
    const MMX: u32 = 1 << 23;
    for (spec, repeated) in [
        ("qemu64", true),
        ("qemu64,-mmx", false),
        ("qemu32,-mmx,+mmx", true),
        ("athlon,-mmx", false),
        ("core2duo", false),
        ("core2duo,+mmx", false),
    ] {
        let features = cpuid::parse(spec).unwrap().features;
        assert_eq!(features[2] & MMX != 0, repeated, "{spec}");
        assert!(!repeated || features[0] & MMX != 0, "{spec}");
    }
    for name in ["fpu", "tsc", "msr", "pae", "cx8", "apic", "cmov", "fxsr", "vme"] {
        for (spec, set) in [(format!("phenom,-{name}"), 0), (format!("phenom,-{name},+{name}"), 1)] {
            let [edx, _, extended, _] = cpuid::parse(&spec).unwrap().features;
            assert_eq!((edx ^ extended) & 0x0183_f3ff, 0, "{spec}");
            assert_eq!((edx ^ cpuid::parse("phenom").unwrap().features[0]).count_ones(), 1 - set, "{spec}");
        }
    }
}

#[test]
fn qemu64_is_a_long_mode_amd_processor() {
    let mut rig = Rig::of("qemu64");
    let [level, b, c, d] = leaf(&mut rig, 0);
    assert_eq!(level, 4);
    let vendor: Vec<u8> = [b, d, c].iter().flat_map(|r| r.to_le_bytes()).collect();
    assert_eq!(vendor, b"AuthenticAMD");
    let [signature, _, ecx, edx] = leaf(&mut rig, 1);
    assert_eq!(signature, 0x0006_0fb1);
    assert_eq!(ecx >> 13 & 1, 1, "CMPXCHG16B");
    assert_eq!(edx & 0x0780_8000, 0x0780_8000, "CMOV, MMX, FXSR, SSE, SSE2");
    assert_ne!(leaf(&mut rig, 0x8000_0001)[3] & (1 << 29 | 1 << 20 | 1 << 11), 0);
    assert_eq!(leaf(&mut rig, 0x8000_0008)[0], 48 << 8 | 40);
    assert_eq!(leaf(&mut rig, 0x4000_0000), [0; 4]);
    rig.board().apic_base = 0xfee0_0100;
    assert_eq!(leaf(&mut rig, 1)[3] >> 9 & 1, 0, "a disabled APIC disappears");
}

#[test]
fn each_processor_is_the_only_thread_of_its_package() {
    for name in ["qemu64", "core2duo", "max"] {
        let mut rig = Rig::of(name);
        rig.cpu.apic_id = 5;
        let [_, b, _, edx] = leaf(&mut rig, 1);
        assert_eq!((b >> 24, b >> 16 & 0xff, edx >> 28 & 1), (5, 0, 0), "{name}: no HTT, no count");
    }
    let mut rig = Rig::of("core2duo");
    // Cores of the package and threads that share the cache, each less one.
    assert_eq!(leaf(&mut rig, 4)[0] & 0xffff_c000, 0);
    let mut rig = Rig::of("max");
    rig.cpu.apic_id = 5;
    let mut level = |number: u64| {
        rig.cpu.core.slots[reg::RAX] = 0xb;
        rig.cpu.core.slots[reg::RCX] = number;
        rig.call(Sys::Cpuid, 0, 0, 0, 0).unwrap();
        [reg::RAX, reg::RBX, reg::RCX, reg::RDX].map(|register| rig.cpu.core.slots[register])
    };
    assert_eq!([level(0), level(1), level(2)], [[0, 1, 0x100, 5], [0, 1, 0x201, 5], [0, 0, 2, 5]]);
}

#[test]
fn only_max_has_a_deadline_timer_and_it_follows_the_counter() {
    let write = |rig: &mut Rig, index: u64, value: u64| {
        rig.cpu.core.slots[reg::RCX] = index;
        rig.cpu.core.slots[reg::RAX] = value & 0xffff_ffff;
        rig.cpu.core.slots[reg::RDX] = value >> 32;
        rig.call(Sys::Wrmsr, 0, 0, 0, 0)
    };
    let mut rig = Rig::of("qemu64");
    assert_eq!(
        (leaf(&mut rig, 1)[2] >> 24 & 1, write(&mut rig, 0x6e0, 9)),
        (0, Err((crate::helpers::vector::GP, Some(0))))
    );
    let mut rig = Rig::of("max");
    assert_eq!(leaf(&mut rig, 1)[2] >> 24 & 1, 1);
    rig.board().time = 1_000;
    write(&mut rig, 0x10, 0x5_0000_0000).unwrap();
    write(&mut rig, 0x6e0, 0x5_0000_0064).unwrap();
    assert_eq!(rig.board().deadline, (0x5_0000_0064, 1_100));
    // The counter is set back.
    write(&mut rig, 0x10, 0x5_0000_0000 - 200).unwrap();
    assert_eq!(rig.board().deadline, (0x5_0000_0064, 1_300));
    write(&mut rig, 0x6e0, 7).unwrap();
    assert_eq!(rig.board().deadline, (7, 1_000), "long ago");
    rig.cpu.core.slots[reg::RCX] = 0x6e0;
    rig.call(Sys::Rdmsr, 0, 0, 0, 0).unwrap();
    assert_eq!(rig.cpu.core.slots[reg::RAX], 7);
    write(&mut rig, 0x6e0, u64::MAX).unwrap();
    let left = u64::MAX - (0x5_0000_0000 - 200);
    assert_eq!(rig.board().deadline, (u64::MAX, 1_000 + left), "in centuries");
}

#[test]
fn the_prefetch_group_with_a_register_is_undefined_on_amd_and_a_hint_on_intel() {
    for (model, defined) in [("qemu64", false), ("athlon", false), ("core2duo", true), ("pentium3", true)] {
        // Memory and register, in one block.
        for (modrm, defined) in [(0x08, true), (0xc8, defined), (0xff, defined)] {
            let mut rig = Rig::of(model).protected();
            rig.idt(6, gate(sel::CODE0, at::HANDLER, 0x8e, 0));
            rig.code(at::USER, &[0x90, 0x0f, 0x0d, modrm, 0x90, 0xf4]);
            rig.cpu.core.pc = at::USER;
            rig.step(2);
            let (pc, told) = if defined { (at::USER + 4, 0) } else { (at::HANDLER, at::USER as u32 + 1) };
            let saved = if defined { 0 } else { rig.stack32(0) };
            assert_eq!((rig.cpu.core.pc, saved), (pc, told), "{model} {modrm:x}");
        }
    }
}

#[test]
fn the_dump_names_every_register_group() {
    let rig = Rig::new().protected();
    let text = rig.cpu.dump();
    assert!(text.starts_with("EAX=00000000 EBX="), "{text}");
    for part in [
        "EIP=0000a000 EFL=00000002 [-------] CPL=0",
        "CS =0008 00000000 ffffffff 00cf9b00",
        "GDT=     00001000 0000009f",
        "CR0=00000011",
        "XMM07=",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    let text = Rig::new().long().cpu.dump();
    assert!(text.contains("R15=0000000000000000") && text.contains("RIP=000000000000a000"), "{text}");
}
