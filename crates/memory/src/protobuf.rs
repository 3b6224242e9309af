//! Protocol Buffers' wire format, as far as CRIU's images need it.

/// A field of a message, and its bytes including number and length.
pub struct Field<'a> {
    /// Its number.
    pub number: u64,
    /// What it is set to.
    pub value: Value<'a>,
    /// All bytes of it.
    pub whole: &'a [u8],
}

/// What a field is set to.
pub enum Value<'a> {
    /// A number of variable length.
    Number(u64),
    /// Anything else.
    Bytes(&'a [u8]),
}

/// The fields of a message; `None` if it is not a message.
pub fn fields(message: &[u8]) -> Option<Vec<Field<'_>>> {
    let mut fields = Vec::new();
    let mut rest = message;
    while !rest.is_empty() {
        let begin = rest;
        let tag = varint(&mut rest)?;
        let value = match tag & 7 {
            0 => Value::Number(varint(&mut rest)?),
            1 => Value::Bytes(take(&mut rest, 8)?),
            2 => {
                let length = varint(&mut rest)?;
                Value::Bytes(take(&mut rest, length.try_into().ok()?)?)
            }
            5 => Value::Bytes(take(&mut rest, 4)?),
            _ => return None,
        };
        fields.push(Field {
            number: tag >> 3,
            value,
            whole: &begin[..begin.len() - rest.len()],
        });
    }
    Some(fields)
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(rest, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// Appends a number of variable length.
pub fn write_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}
