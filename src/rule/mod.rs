//! Rules: which devices are in a pool, and the reason for each verdict. Fields,
//! operators and classes are one table each, which the parser, the man page and the
//! error messages use. This module does not know files or how a device's fields are
//! read.

mod evaluate;
mod field;
pub(crate) mod filter;
pub(crate) mod labels;
mod operator;
pub(crate) mod spelling;
mod value;

pub use evaluate::{Fields, Rule, Verdict, evaluate, fields_used, matching_rule};
pub use field::{Field, FieldInfo};
pub use filter::{Filter, FilterError, FilterPart};
pub use labels::Class;
pub use operator::{Operator, OperatorInfo};
pub use value::{FieldType, FieldValue};
