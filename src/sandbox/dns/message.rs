//! One DNS message in, one out: pure, and safe with whatever bytes come.

use hickory_server::proto::ProtoError;
use hickory_server::proto::op::{
    Edns, Header, HeaderCounts, MessageType, Metadata, OpCode, Query as Question, ResponseCode,
};
use hickory_server::proto::rr::rdata::SOA;
use hickory_server::proto::rr::{DNSClass, Name, Record, RecordType};
use hickory_server::proto::serialize::binary::{BinDecodable, BinDecoder, BinEncodable, BinEncoder, DecodeError};

use super::{Query, TTL, Verdict, Zone};

/// Where the question begins, and with it the name that an answer's record points at.
const QUESTION_AT: u16 = 12;
/// A query has an OPT record, and perhaps a signature.
const MAX_ADDITIONALS: u16 = 4;
/// What we take by UDP, in bytes (the value that all of the Internet's paths carry).
const PAYLOAD: u16 = 1232;

/// Answers one message, by UDP or TCP. What is to be sent back is left in `out`, at most 512 bytes; nothing there means
/// silence. Returns the query, if there was one that can be read.
///
/// The reply is never bigger than the smallest size that every client takes, so nothing is ever truncated.
pub fn reply(packet: &[u8], zone: &Zone, out: &mut Vec<u8>) -> Option<Query> {
    out.clear();
    let mut decoder = BinDecoder::new(packet);
    let header = Header::read(&mut decoder).ok()?;
    // Answering a response could make two servers talk for ever.
    if header.message_type == MessageType::Response {
        return None;
    }
    let mut answer = Answer::to(&header);
    let read = if header.op_code == OpCode::Query { read(&header, &mut decoder) } else { Err(ResponseCode::NotImp) };
    let query = match &read {
        Err(code) => {
            answer.code = *code;
            None
        }
        Ok(asked) => {
            answer.question = asked.question_bytes;
            answer.edns = asked.edns;
            let question = &asked.question;
            let mut allowed = false;
            if asked.edns.is_some_and(|edns| edns.version > 0) {
                answer.code = ResponseCode::BADVERS;
            } else if question.query_class != DNSClass::IN {
                answer.code = ResponseCode::Refused;
            } else {
                let verdict = zone.answer(&question.name, question.query_type);
                allowed = verdict != Verdict::NoSuchName;
                answer.code = if allowed { ResponseCode::NoError } else { ResponseCode::NXDomain };
                answer.verdict = Some(verdict);
            }
            Some(Query::new(&question.name, question.query_type, allowed))
        }
    };
    if answer.write(out).is_err() {
        out.clear();
    }
    query
}

/// What of a query matters.
struct Asked<'a> {
    question: Question,
    /// The question as it came: the reply repeats it to the letter, with the case of its letters, by which clients know it.
    question_bytes: &'a [u8],
    edns: Option<AskedEdns>,
}

#[derive(Clone, Copy)]
struct AskedEdns {
    version: u8,
    dnssec_ok: bool,
}

/// Reads what follows the header of a query; an error is the code to answer with.
fn read<'a>(header: &Header, decoder: &mut BinDecoder<'a>) -> Result<Asked<'a>, ResponseCode> {
    let HeaderCounts { queries, answers, authorities, additionals } = header.counts;
    if (queries, answers, authorities) != (1, 0, 0) || additionals > MAX_ADDITIONALS {
        return Err(ResponseCode::FormErr);
    }
    let malformed = |_: DecodeError| ResponseCode::FormErr;
    let begin = decoder.index();
    let question = Question::read(decoder).map_err(malformed)?;
    let question_bytes = decoder.slice_from(begin).map_err(malformed)?;
    // A compressed name could only point into the header.
    let plain: usize = question.name.iter().map(|label| label.len() + 1).sum::<usize>() + 1 + 2 + 2;
    if question_bytes.len() != plain {
        return Err(ResponseCode::FormErr);
    }
    let mut edns = None;
    for _ in 0..additionals {
        if let Some(found) = read_additional(decoder).map_err(malformed)?
            && edns.replace(found).is_some()
        {
            return Err(ResponseCode::FormErr);
        }
    }
    if decoder.is_empty() { Ok(Asked { question, question_bytes, edns }) } else { Err(ResponseCode::FormErr) }
}

/// Reads past one record, whose data is of no interest; `Some` if it is an OPT.
fn read_additional(decoder: &mut BinDecoder<'_>) -> Result<Option<AskedEdns>, DecodeError> {
    Name::read(decoder)?;
    let kind = RecordType::read(decoder)?;
    let _class = decoder.read_u16()?.unverified();
    let flags = decoder.read_u32()?.unverified().to_be_bytes();
    let length = decoder.read_u16()?.unverified();
    decoder.read_slice(usize::from(length))?;
    let edns = AskedEdns { version: flags[1], dnssec_ok: flags[2] & 0x80 != 0 };
    Ok((kind == RecordType::OPT).then_some(edns))
}

struct Answer<'a> {
    metadata: Metadata,
    code: ResponseCode,
    question: &'a [u8],
    edns: Option<AskedEdns>,
    verdict: Option<Verdict>,
}

impl Answer<'_> {
    fn to(header: &Header) -> Self {
        let mut metadata = Metadata::response_from_request(header);
        // Stub resolvers expect a server that resolves whatever they ask for, and this one does, finally.
        metadata.recursion_available = true;
        metadata.checking_disabled = false;
        Self { metadata, code: ResponseCode::NoError, question: &[], edns: None, verdict: None }
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), ProtoError> {
        let address = match self.verdict {
            Some(Verdict::Address(address)) => Some(address),
            _ => None,
        };
        // A negative answer is cached for as long as the SOA beside it says.
        let negative = self.verdict.is_some() && address.is_none();
        let mut metadata = self.metadata;
        metadata.response_code = self.code;
        metadata.authoritative = self.verdict.is_some();
        let counts = HeaderCounts {
            queries: u16::from(!self.question.is_empty()),
            answers: u16::from(address.is_some()),
            authorities: u16::from(negative),
            additionals: u16::from(self.edns.is_some()),
        };
        let mut encoder = BinEncoder::new(out);
        encoder.set_max_size(512);
        Header { metadata, counts }.emit(&mut encoder)?;
        encoder.emit_vec(self.question)?;
        if let Some(address) = address {
            encoder.emit_u16(0xC000 | QUESTION_AT)?;
            RecordType::A.emit(&mut encoder)?;
            DNSClass::IN.emit(&mut encoder)?;
            encoder.emit_u32(TTL)?;
            encoder.emit_u16(4)?;
            encoder.emit_vec(&address.octets())?;
        }
        if negative {
            let times = 3600;
            let soa = SOA::new(Name::root(), Name::root(), 1, times, times, times, TTL);
            Record::from_rdata(Name::root(), TTL, soa).emit(&mut encoder)?;
        }
        if let Some(asked) = self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(PAYLOAD).set_dnssec_ok(asked.dnssec_ok).set_rcode_high(self.code.high());
            edns.emit(&mut encoder)?;
        }
        Ok(())
    }
}
