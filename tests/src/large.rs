//! A component that takes seconds to compile.

use std::path::Path;

use anyhow::{Context as _, Result};

/// The functions of the unused module.
const FUNCTIONS: usize = 3000;
/// The steps of each of them, two instructions each.
const STEPS: usize = 500;

/// Returns the code of a component with an unused module besides, which takes seconds to compile.
pub fn large_component(file: &Path) -> Result<Vec<u8>> {
    const CORE_MODULE: u8 = 1;
    let mut component = std::fs::read(file).with_context(|| format!("{}", file.display()))?;
    section(CORE_MODULE, &module(), &mut component);
    Ok(component)
}

/// Returns a module whose functions map a number to another one.
fn module() -> Vec<u8> {
    const TYPES: u8 = 1;
    const FUNCTION_TYPES: u8 = 3;
    const CODE: u8 = 10;
    const I32: u8 = 0x7f;
    let mut types = vec![1, 0x60];
    types.extend([1, I32, 1, I32]);
    let mut function_types = Vec::new();
    unsigned(FUNCTIONS, &mut function_types);
    function_types.resize(function_types.len() + FUNCTIONS, 0);
    let mut code = Vec::new();
    unsigned(FUNCTIONS, &mut code);
    let function = function();
    for _ in 0..FUNCTIONS {
        unsigned(function.len(), &mut code);
        code.extend(&function);
    }
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    for (id, contents) in [
        (TYPES, types),
        (FUNCTION_TYPES, function_types),
        (CODE, code),
    ] {
        section(id, &contents, &mut module);
    }
    module
}

fn function() -> Vec<u8> {
    const LOCAL_GET: u8 = 0x20;
    const MULTIPLY: u8 = 0x6c;
    const XOR: u8 = 0x73;
    const ROTATE_LEFT: u8 = 0x77;
    const END: u8 = 0x0b;
    // Without locals besides its parameter.
    let mut body = vec![0, LOCAL_GET, 0];
    for step in 0..STEPS {
        let operation = [MULTIPLY, XOR, ROTATE_LEFT][step % 3];
        body.extend([LOCAL_GET, 0, operation]);
    }
    body.push(END);
    body
}

/// Appends a section.
fn section(id: u8, contents: &[u8], binary: &mut Vec<u8>) {
    binary.push(id);
    unsigned(contents.len(), binary);
    binary.extend(contents);
}

/// Appends a number in LEB128.
fn unsigned(mut number: usize, binary: &mut Vec<u8>) {
    while number >= 0x80 {
        binary.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    binary.push(number as u8);
}
