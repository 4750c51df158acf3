//! Parameter names: what AWS takes for one, and the selectors and ARNs that may stand in a name's
//! place.

use crate::wire::AwsError;

/// Characters of a name, with what stands before it in the ARN (`PutParameter` in the Systems
/// Manager API reference).
const MAX_WITH_ARN: usize = 1_011;

/// The model's limit for the member itself, selector and all (same page).
const MAX_MEMBER: usize = 2_048;

/// Levels of a hierarchy (same page).
const MAX_LEVELS: usize = 15;

const RULES: &str = "Parameter name: can't be prefixed with \"aws\" or \"ssm\" (case-insensitive). If formed as a path, it \
                     can consist of sub-paths divided by slash symbol; each sub-path can be formed as a mix of letters, \
                     numbers and the following 3 symbols .-_";

const PATH_RULES: &str = "The parameter doesn't meet the parameter name requirements. The parameter name must begin with \
                          a forward slash \"/\". It can't be prefixed with \"aws\" or \"ssm\" (case-insensitive). It must \
                          use only letters, numbers, or the following symbols: . (period), - (hyphen), _ (underscore). \
                          Special characters are not allowed. All sub-paths, if specified, must use the forward slash \
                          symbol \"/\". Valid example: /get/parameters2-/by1./path0_.";

/// Where parameters are: the middle of their ARNs.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) region: String,
    pub(super) account: String,
}

/// Which version of a parameter is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Selector {
    Latest,
    Version(i64),
    Label(String),
}

/// A name as it is asked for: `name`, `name:3`, `name:label`, or an ARN with or without one of
/// these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) name: String,
    pub(super) selector: Selector,
    /// The selector as it was written, colon and all.
    pub(super) selector_text: Option<String>,
    /// Given as an ARN, which does not tell whether the name begins with a slash.
    pub(super) by_arn: bool,
}

impl Place {
    /// `arn:aws:ssm:<region>:<account>:parameter/<name>`, whether the name begins with a slash or
    /// not.
    pub(super) fn arn(&self, name: &str) -> String {
        format!("arn:aws:ssm:{}:{}:parameter/{}", self.region, self.account, name.strip_prefix('/').unwrap_or(name))
    }

    /// The name for a new version. Spaces around it are taken away, as `PutParameter` documents.
    pub(super) fn new_name(&self, text: &str) -> Result<String, AwsError> {
        check_member(text, "name")?;
        let name = text.trim();
        if name.is_empty() || name.contains("//") || name.ends_with('/') || !name.bytes().all(is_name_byte) {
            return Err(AwsError::validation(RULES));
        }
        let bare = name.strip_prefix('/').unwrap_or(name);
        if bare.contains('/') && !name.starts_with('/') {
            return Err(AwsError::validation("Parameter name must be a fully qualified name."));
        }
        if is_reserved(bare) {
            return Err(AwsError::validation(RULES));
        }
        if bare.split('/').count() > MAX_LEVELS {
            return Err(AwsError::new(
                "HierarchyLevelLimitExceededException",
                format!(
                    "A hierarchy can have a maximum of {MAX_LEVELS} levels. For more information, see Requirements and \
                     constraints for parameter names in the AWS Systems Manager User Guide."
                ),
            ));
        }
        if self.arn(name).len() > MAX_WITH_ARN {
            return Err(AwsError::validation(format!(
                "Parameter name must not be longer than {MAX_WITH_ARN} characters, those before it in its ARN included."
            )));
        }
        Ok(name.to_owned())
    }

    /// Takes a name, selector or ARN apart. Whether such a parameter exists is another question.
    pub(super) fn asked(&self, text: &str) -> Result<Asked, AwsError> {
        check_member(text, "name")?;
        let own = format!("arn:aws:ssm:{}:{}:parameter", self.region, self.account);
        // An ARN of another account or region names nothing here; it stays as it is, and is not
        // found.
        let (text, is_arn) = match text.strip_prefix(&own) {
            Some(rest) if rest.starts_with('/') => (rest, true),
            _ => (text.trim(), text.starts_with("arn:")),
        };
        let foreign_arn = is_arn && text.starts_with("arn:");
        let (name, selector_text) = match text.find(':') {
            Some(colon) if !foreign_arn => (&text[..colon], Some(text[colon..].to_owned())),
            _ => (text, None),
        };
        let selector = match selector_text.as_deref().map(|text| &text[1..]) {
            None => Selector::Latest,
            Some(text) => text.parse().map_or_else(|_| Selector::Label(text.to_owned()), Selector::Version),
        };
        Ok(Asked { name: name.to_owned(), selector, selector_text, by_arn: is_arn })
    }
}

/// A path to list under, without the slash at its end.
pub(super) fn path(text: &str) -> Result<String, AwsError> {
    check_member(text, "path")?;
    let bare = text.strip_prefix('/').ok_or_else(|| AwsError::validation(PATH_RULES))?;
    if text.contains("//") || !text.bytes().all(is_name_byte) || is_reserved(bare) {
        return Err(AwsError::validation(PATH_RULES));
    }
    if bare.split('/').filter(|level| !level.is_empty()).count() > MAX_LEVELS {
        return Err(AwsError::validation(format!("A hierarchy can have a maximum of {MAX_LEVELS} levels.")));
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// `/name` and `name` have one ARN: AWS holds them for the same name. Names of several levels have
/// but one spelling.
pub(super) fn other_spelling(name: &str) -> Option<String> {
    match name.strip_prefix('/') {
        Some(bare) => (!bare.contains('/')).then(|| bare.to_owned()),
        None => Some(format!("/{name}")),
    }
}

fn check_member(text: &str, member: &str) -> Result<(), AwsError> {
    if text.is_empty() {
        return Err(AwsError::constraint("", member, "have length greater than or equal to 1"));
    }
    if text.len() > MAX_MEMBER {
        return Err(AwsError::constraint(text, member, &format!("have length less than or equal to {MAX_MEMBER}")));
    }
    Ok(())
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b'/')
}

fn is_reserved(bare: &str) -> bool {
    bare.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("aws") || start.eq_ignore_ascii_case("ssm"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place { region: "us-east-2".to_owned(), account: "111122223333".to_owned() }
    }

    /// Guards: names are taken and refused as the API reference says.
    #[test]
    fn names_are_taken_and_refused_as_documented() {
        let longest = format!("/{}", "a".repeat(MAX_WITH_ARN - 45));
        let too_long = format!("{longest}a");
        let fifteen = "/x".repeat(15);
        let sixteen = "/x".repeat(16);
        let cases: &[(&str, Result<&str, &str>)] = &[
            ("plain", Ok("plain")),
            ("/a/b", Ok("/a/b")),
            ("  /a/b ", Ok("/a/b")),
            ("/my/aws", Ok("/my/aws")),
            (&longest, Ok(&longest)),
            (&fifteen, Ok(&fifteen)),
            ("", Err("ValidationException")),
            ("/", Err("ValidationException")),
            ("/a/", Err("ValidationException")),
            ("/a//b", Err("ValidationException")),
            ("a/b", Err("ValidationException")),
            ("/a b", Err("ValidationException")),
            ("/a:1", Err("ValidationException")),
            ("/ä", Err("ValidationException")),
            ("awsTest", Err("ValidationException")),
            ("/AWS/test", Err("ValidationException")),
            ("SSM-test", Err("ValidationException")),
            ("/ssm", Err("ValidationException")),
            (&too_long, Err("ValidationException")),
            (&sixteen, Err("HierarchyLevelLimitExceededException")),
        ];
        for (text, expected) in cases {
            let actual = place().new_name(text);
            let actual = actual.as_deref().map_err(|error| error.code().to_owned());
            assert_eq!(actual, expected.map_err(str::to_owned), "{text:?}");
        }
    }

    /// Guards: selectors and ARNs select what they say.
    #[test]
    fn selectors_and_arns_are_taken_apart() {
        let cases = [
            ("/a", "/a", Selector::Latest),
            ("/a:3", "/a", Selector::Version(3)),
            ("/a:prod", "/a", Selector::Label("prod".to_owned())),
            ("arn:aws:ssm:us-east-2:111122223333:parameter/a/b", "/a/b", Selector::Latest),
            ("arn:aws:ssm:us-east-2:111122223333:parameter/a:7", "/a", Selector::Version(7)),
            ("arn:aws:ssm:us-east-1:1:parameter/a:7", "arn:aws:ssm:us-east-1:1:parameter/a:7", Selector::Latest),
        ];
        for (text, name, selector) in cases {
            let asked = place().asked(text).expect(text);
            assert_eq!((asked.name.as_str(), &asked.selector), (name, &selector), "{text}");
        }
    }
}
