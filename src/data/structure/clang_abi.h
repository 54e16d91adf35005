// The part of libclang's stable C interface that we call, declared here so that the build needs no header of it. Layouts and
// numbers have not changed between LLVM 9 and 18; the library is opened at run time (clang_library.h).
#pragma once

namespace weft::data::clang {

using Index = void*;
using Unit = struct UnitImpl*;
using File = void*;
struct String { const void* data; unsigned flags; };
struct Cursor { int kind, xdata; const void* data[3]; };
struct Location { const void* data[2]; unsigned offset; };
struct Range { const void* data[2]; unsigned begin, end; };
struct Token { unsigned data[4]; void* pointer; };
struct Unsaved { const char* path; const char* text; unsigned long length; };
using Diagnostic = void*;
enum : int { kStop = 0, kContinue = 1 };  // what a visitor answers
using Visitor = int (*)(Cursor cursor, Cursor parent, void* data);

enum : unsigned {  // options of a parse
  kDetailedRecord = 0x01,  // macros and includes become cursors
  kIncomplete = 0x02, kForSerialization = 0x10,  // a header that will be saved
  kSkipFunctionBodies = 0x40,  // but those that types depend on: constexpr, deduced
  kKeepGoing = 0x200,  // no stop at a missing include
};
enum : int { kCommentToken = 4 };
enum : int { kErrorSeverity = 3, kFatalSeverity = 4 };

// Cursor kinds that the code asks for by name; node_types.cpp has the others.
enum Kind : int {
  kStruct = 2, kUnion = 3, kClass = 4, kEnum = 5, kField = 6, kEnumerator = 7, kFunction = 8, kTypedef = 20, kMethod = 21, kNamespace = 22,
  kLinkage = 23, kConstructor = 24, kDestructor = 25, kConversion = 26, kFunctionTemplate = 30, kClassTemplate = 31, kPartialSpecialization = 32,
  kTypeAlias = 36, kBaseSpecifier = 44, kCall = 103, kCompound = 202, kTry = 224, kAliasTemplate = 601, kFriend = 603,
};

// Name without its "clang_", result, parameters.
#define WEFT_CLANG_FUNCTIONS(X)                                                                                        \
  X(createIndex, Index, (int, int))                                                                                    \
  X(disposeIndex, void, (Index))                                                                                       \
  X(parseTranslationUnit2, int, (Index, const char*, const char* const*, int, Unsaved*, unsigned, unsigned, Unit*))    \
  X(saveTranslationUnit, int, (Unit, const char*, unsigned))                                                           \
  X(disposeTranslationUnit, void, (Unit))                                                                              \
  X(getTranslationUnitCursor, Cursor, (Unit))                                                                          \
  X(visitChildren, unsigned, (Cursor, Visitor, void*))                                                                 \
  X(Cursor_isNull, int, (Cursor))                                                                                      \
  X(Cursor_isAnonymous, unsigned, (Cursor))                                                                            \
  X(getCursorExtent, Range, (Cursor))                                                                                  \
  X(getCursorLocation, Location, (Cursor))                                                                             \
  X(getCursorSpelling, String, (Cursor))                                                                               \
  X(getCursorUSR, String, (Cursor))                                                                                    \
  X(getCursorReferenced, Cursor, (Cursor))                                                                             \
  X(getCursorSemanticParent, Cursor, (Cursor))                                                                         \
  X(getSpecializedCursorTemplate, Cursor, (Cursor))                                                                    \
  X(getTemplateCursorKind, int, (Cursor))                                                                              \
  X(isCursorDefinition, unsigned, (Cursor))                                                                            \
  X(Location_isInSystemHeader, int, (Location))                                                                        \
  X(getRangeStart, Location, (Range))                                                                                  \
  X(getRangeEnd, Location, (Range))                                                                                    \
  X(getRange, Range, (Location, Location))                                                                             \
  X(getExpansionLocation, void, (Location, File*, unsigned*, unsigned*, unsigned*))                                    \
  X(getFile, File, (Unit, const char*))                                                                                \
  X(File_isEqual, int, (File, File))                                                                                   \
  X(getLocationForOffset, Location, (Unit, File, unsigned))                                                            \
  X(tokenize, void, (Unit, Range, Token**, unsigned*))                                                                 \
  X(disposeTokens, void, (Unit, Token*, unsigned))                                                                     \
  X(getTokenKind, int, (Token))                                                                                        \
  X(getTokenExtent, Range, (Unit, Token))                                                                              \
  X(getNumDiagnostics, unsigned, (Unit))                                                                               \
  X(getDiagnostic, Diagnostic, (Unit, unsigned))                                                                       \
  X(getDiagnosticSeverity, int, (Diagnostic))                                                                          \
  X(formatDiagnostic, String, (Diagnostic, unsigned))                                                                  \
  X(disposeDiagnostic, void, (Diagnostic))                                                                             \
  X(getClangVersion, String, ())                                                                                       \
  X(getCString, const char*, (String))                                                                                 \
  X(disposeString, void, (String))

}  // namespace weft::data::clang
