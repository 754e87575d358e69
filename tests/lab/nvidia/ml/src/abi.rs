//! The interface to C: pointers, strings, versioned structs, and the macro that exports
//! a call. All memory of the caller is accessed here. It relies on NVML's contract with
//! callers: a pointer argument is null or points to memory of the given type and size.

use std::{
    ffi::{CStr, c_char, c_uint},
    ptr,
};

use crate::code::{Answer, Code};

/// Exports calls under one or more names. The first parameter is the library, or `!` for a
/// call that needs no initialised one; the body is an [`Answer`].
macro_rules! abi {
    ($(fn $($name:ident)|+ ($($parameters:tt)*) $body:block)*) => {
        $($crate::abi::abi! { @each [$($name)+] ($($parameters)*) $body })*
    };
    (@each [$($name:ident)+] $parameters:tt $body:block) => {
        $($crate::abi::abi! { @one $name $parameters $body })+
    };
    (@one $name:ident (! $(, $arg:ident: $ty:ty)* $(,)?) $body:block) => {
        // SAFETY: The name is NVML's; whoever loads this library does so in place of NVML.
        #[unsafe(no_mangle)]
        pub extern "C" fn $name($($arg: $ty),*) -> ::std::ffi::c_uint {
            $crate::session::guarded(|| $body)
        }
    };
    (@one $name:ident ($nvml:pat_param $(, $arg:ident: $ty:ty)* $(,)?) $body:block) => {
        // SAFETY: As above.
        #[unsafe(no_mangle)]
        pub extern "C" fn $name($($arg: $ty),*) -> ::std::ffi::c_uint {
            $crate::session::answer(|$nvml| $body)
        }
    };
}
pub(crate) use abi;

/// A pointer from the caller, to one value or to an array.
#[repr(transparent)]
#[derive(Debug)]
pub struct Ptr<T>(*mut T);

impl<T> Clone for Ptr<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Ptr<T> {}

impl<T: Copy> Ptr<T> {
    /// A pointer that stood in a struct of the caller.
    pub fn found(pointer: *mut T) -> Self {
        Self(pointer)
    }

    /// Whether there is no place to write to.
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// The same pointer with another type.
    pub fn cast<U>(self) -> Ptr<U> {
        Ptr(self.0.cast())
    }

    /// The value that the caller put there.
    pub fn read(self) -> Answer<T> {
        if self.0.is_null() {
            return Err(Code::INVALID_ARGUMENT);
        }
        // SAFETY: Not null, so by NVML's contract it points to a `T`.
        Ok(unsafe { self.0.read() })
    }

    /// Writes a value for the caller.
    pub fn write(self, value: T) -> Answer {
        self.fill(&[value])
    }

    /// Writes an array for the caller, which must be large enough for all of it.
    pub fn fill(self, values: &[T]) -> Answer {
        if values.is_empty() {
            return Ok(());
        }
        if self.0.is_null() {
            return Err(Code::INVALID_ARGUMENT);
        }
        // SAFETY: Not null, so by NVML's contract it is large enough for what the call returns. The
        // values are this library's own, so the two do not overlap.
        unsafe { ptr::copy_nonoverlapping(values.as_ptr(), self.0, values.len()) };
        Ok(())
    }

    /// Reads a struct that begins with its version, if that is the given version of `T`.
    pub fn read_version(self, number: u32) -> Answer<T> {
        if self.cast::<c_uint>().read()? == version::<T>(number) {
            self.read()
        } else {
            Err(Code::VERSION_MISMATCH)
        }
    }
}

#[cfg(test)]
impl<T> From<&mut T> for Ptr<T> {
    fn from(value: &mut T) -> Self {
        Self(value)
    }
}

#[cfg(test)]
impl<T> From<&mut [T]> for Ptr<T> {
    fn from(values: &mut [T]) -> Self {
        Self(values.as_mut_ptr())
    }
}

#[cfg(test)]
impl<T> Ptr<T> {
    /// The pointer of a caller that has no place for the answer.
    pub const NULL: Self = Self(ptr::null_mut());
}

/// `NVML_STRUCT_VERSION`: the size, and the number in the uppermost byte.
#[allow(clippy::cast_possible_truncation, reason = "all structs are small")]
pub const fn version<T>(number: u32) -> c_uint {
    size_of::<T>() as c_uint | number << 24
}

/// A buffer of the caller's for a string.
#[repr(transparent)]
#[derive(Debug, Clone, Copy)]
pub struct Text(Ptr<c_char>);

impl Text {
    /// Writes the text into a buffer of `size` bytes.
    pub fn write(self, text: &str, size: c_uint) -> Answer {
        if self.0.is_null() {
            return Err(Code::INVALID_ARGUMENT);
        }
        let mut bytes: Vec<c_char> = text.bytes().map(character).collect();
        bytes.push(0);
        if bytes.len() > size as usize {
            return Err(Code::INSUFFICIENT_SIZE);
        }
        self.0.fill(&bytes)
    }

    /// The same, and returns the size that is needed.
    pub fn write_sized(self, text: &str, size: Ptr<c_uint>) -> Answer {
        let room = size.read()?;
        size.write(count(text.len() + 1)?)?;
        if room == 0 {
            return Err(Code::INSUFFICIENT_SIZE);
        }
        self.write(text, room)
    }
}

#[cfg(test)]
impl From<&mut [c_char]> for Text {
    fn from(buffer: &mut [c_char]) -> Self {
        Self(buffer.into())
    }
}

/// A string of the caller's.
#[repr(transparent)]
#[derive(Debug, Clone, Copy)]
pub struct Given(*const c_char);

impl Given {
    /// The string.
    pub fn read(self) -> Answer<String> {
        if self.0.is_null() {
            return Err(Code::INVALID_ARGUMENT);
        }
        // SAFETY: Not null, so by NVML's contract it is a string with a NUL at its end.
        let text = unsafe { CStr::from_ptr(self.0) };
        let text = text.to_str().map_err(|_| Code::INVALID_ARGUMENT)?;
        Ok(text.to_owned())
    }
}

#[cfg(test)]
impl From<&'static CStr> for Given {
    fn from(text: &'static CStr) -> Self {
        Self(text.as_ptr())
    }
}

/// A length as C has it.
pub fn count(length: usize) -> Answer<c_uint> {
    c_uint::try_from(length).map_err(|_| Code::UNKNOWN)
}

/// The pattern of two calls: `room` is the size of the caller's array, and then the
/// size that is needed.
pub fn list<T: Copy>(values: &[T], room: Ptr<c_uint>, array: Ptr<T>) -> Answer {
    let mut space = room.read()?;
    let fits = fitting(values, &mut space);
    room.write(space)?;
    fits?;
    array.fill(values)
}

/// The same for a count in a struct, which the caller writes back.
pub fn fitting<T>(values: &[T], room: &mut c_uint) -> Answer {
    let needed = count(values.len())?;
    let fits = *room >= needed;
    *room = needed;
    if fits {
        Ok(())
    } else {
        Err(Code::INSUFFICIENT_SIZE)
    }
}

/// A byte as C has it, whether that is signed or not.
pub fn character(byte: u8) -> c_char {
    c_char::from_ne_bytes([byte])
}

/// A text in an array of a struct; a longer text is truncated.
pub fn chars<const N: usize>(text: &str) -> [c_char; N] {
    let mut array = [0; N];
    for (to, from) in array.iter_mut().take(N - 1).zip(text.bytes()) {
        *to = character(from);
    }
    array
}
